// `megatron plan`: parameters, memory, FLOPs and decisions of a configuration, without running it.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/strings.h"
#include "cli/commands.h"
#include "cli/config_options.h"
#include "cli/machine_file.h"
#include "parallel/mesh.h"
#include "program/plan.h"
#include "tokenizer/tokenizer.h"
#include "train/data_setup.h"
#include "train/plan_report.h"
#include "train/plan_simulation.h"
#include "train/programs.h"
#include "train/step_estimate.h"

namespace megatron {
namespace {

struct PlanCommand {
  ConfigOptions config;
  int64_t world_size = 1;
  std::optional<int64_t> rank;
  std::string machine;  ///< file
  bool simulate = false, print_program = false;
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

int64_t rank_of(const PlanCommand& options) {
  const int64_t rank = options.rank.value_or(0);
  if (rank < options.world_size) return rank;
  throw UsageError(str_cat("--rank ", rank, ": the ranks of --world-size ", options.world_size, " are 0 to ",
                           options.world_size - 1));
}

/// The time of a step, once a rank of every stage was looked at.
class StepClock {
 public:
  StepClock(const PlanCommand& options, const Config& config) : config_(config) {
    if (options.machine.empty()) {
      if (!config.machine.device.empty()) profile_.emplace(config.machine);
      return;
    }
    if (!std::filesystem::exists(options.machine)) {
      throw UsageError("--machine: there is no file '" + options.machine + "'");
    }
    profile_.emplace(read_machine_file(options.machine));
  }
  void look(const TrainPrograms& programs) {
    if (!profile_) return;
    const int pp = programs.mesh.find("pp");
    const int stage = pp < 0 ? 0 : programs.mesh.axes[static_cast<size_t>(pp)].coordinate;
    if (stages_.count(stage) == 0) stages_[stage] = estimate_stage(programs, *profile_);
  }
  /// Was a rank of every stage looked at?
  bool complete(const TrainPrograms& programs) const {
    const int pp = programs.mesh.find("pp");
    return std::ssize(stages_) == (pp < 0 ? 1 : programs.mesh.axes[static_cast<size_t>(pp)].size);
  }
  /// `programs`: of any rank. "" without a machine.
  std::string text(const TrainPrograms& programs) const {
    if (!profile_) return "";
    if (!complete(programs)) {
      return "time         not reckoned: it takes a rank of every pipeline stage; leave --rank out\n";
    }
    std::vector<StageEstimate> all;
    for (const auto& [stage, estimate] : stages_) all.push_back(estimate);
    return describe_estimate(config_, programs, estimate_step(programs, all), *profile_);
  }

 private:
  const Config& config_;
  std::optional<MachineProfile> profile_;
  std::map<int, StageEstimate> stages_;
};

void plan(const PlanCommand& options) {
  const LoadedConfig loaded = load_config(options.config, options.world_size);
  const Config& config = loaded.config;
  const int64_t rank = rank_of(options), vocab_size = vocab_size_of(config);
  StepClock clock(options, config);
  std::string time;
  const auto print_rank = [&](const TrainPrograms& programs) {
    std::printf("%s", describe_plan(config, programs, loaded.decisions).c_str());
    if (options.print_program) print_programs(programs);
  };
  const bool all = !options.rank && (options.world_size > 1 || options.simulate);
  if (!all) {
    const TrainPrograms programs =
        make_train_programs(config, vocab_size, make_parallel_context(config, options.world_size, rank));
    print_rank(programs);
    clock.look(programs);
    std::printf("%s", clock.text(programs).c_str());
    return;
  }
  bool printed = false;
  const auto look = [&](const TrainPrograms& programs) {
    if (!std::exchange(printed, true)) print_rank(programs);
    clock.look(programs);
    if (time.empty() && clock.complete(programs)) time = clock.text(programs);
  };
  const RankPlans ranks = plan_ranks(config, vocab_size, options.world_size, planned_ranks(config, options.world_size),
                                     options.simulate, look);
  if (options.world_size > 1) std::printf("%s", describe_ranks(config, ranks.plans).c_str());
  std::printf("%s", time.c_str());
  if (options.simulate) std::printf("%s", describe(prove(config, ranks)).c_str());
}

}  // namespace

void add_plan_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("plan",
                                         "Print parameters, memory by purpose, communication, FLOPs and decisions of a "
                                         "configuration, for all ranks of a mesh, without running it");
  auto options = std::make_shared<PlanCommand>();
  add_config_options(*command, options->config);
  command
      ->add_option("--world-size", options->world_size,
                   "Number of ranks: the plan of the first, and a table of all that differ")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  CLI::Option* rank = command->add_option("--rank", options->rank, "Plan this rank alone")
                          ->check(CLI::NonNegativeNumber.description(""));
  command
      ->add_flag("--simulate", options->simulate,
                 "Also prove a step and an evaluation of all ranks on paper: the pipeline schedule, what stages hand "
                 "on, the order of collectives on every communicator, and that nobody waits for ever")
      ->excludes(rank);
  command
      ->add_option(
          "--machine", options->machine,
          "Reckon the time of a step from this file, such as configs/base/machines/h200.yaml (default: section "
          "machine of the configuration)")
      ->type_name("FILE");
  command->add_flag("--print-program", options->print_program,
                    "Also print every operation of the step, forward, backward and update");
  command->callback([options] { plan(*options); });
}

}  // namespace megatron
