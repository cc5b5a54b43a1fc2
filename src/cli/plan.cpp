// `megatron plan`: parameters, memory, FLOPs and decisions of a configuration, without running it.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "base/error.h"
#include "base/strings.h"
#include "cli/commands.h"
#include "cli/config_options.h"
#include "parallel/mesh.h"
#include "program/plan.h"
#include "tokenizer/tokenizer.h"
#include "train/data_setup.h"
#include "train/plan_report.h"
#include "train/programs.h"

namespace megatron {
namespace {

struct PlanCommand {
  ConfigOptions config;
  int64_t world_size = 1, rank = 0;
  bool print_program = false;
};

/// Where the configuration says it no file is looked at, so that a run can be planned before its data is there; a
/// tokenizer with more ids is refused when the run starts.
int64_t vocab_size_of(const Config& config) {
  if (config.model.vocab_size) return *config.model.vocab_size;
  return make_tokenizer(tokenizer_spec(config))->vocab_size();
}

void print_programs(const TrainPrograms& programs) {
  for (const Plan* plan : programs.plans()) {
    std::printf("\n%s", print_program(plan->program).c_str());
  }
}

}  // namespace

void add_plan_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("plan", "Print parameters, memory by purpose, FLOPs and decisions of a configuration");
  auto options = std::make_shared<PlanCommand>();
  add_config_options(*command, options->config);
  command->add_option("--world-size", options->world_size, "Number of ranks; the plan is that of one of them")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--rank", options->rank, "The rank that is planned: pipeline stages differ")
      ->check(CLI::NonNegativeNumber.description(""))
      ->capture_default_str();
  command->add_flag("--print-program", options->print_program,
                    "Also print every operation of the step, forward, backward and update");
  command->callback([options] {
    const LoadedConfig loaded = load_config(options->config, options->world_size);
    if (options->rank >= options->world_size) {
      throw UsageError(str_cat("--rank ", options->rank, ": the ranks of --world-size ", options->world_size,
                               " are 0 to ", options->world_size - 1));
    }
    const ParallelContext parallel = make_parallel_context(loaded.config, options->world_size, options->rank);
    const TrainPrograms programs = make_train_programs(loaded.config, vocab_size_of(loaded.config), parallel);
    std::printf("%s", describe_plan(loaded.config, programs, loaded.decisions).c_str());
    if (options->print_program) print_programs(programs);
  });
}

}  // namespace megatron
