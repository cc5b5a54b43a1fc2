// `megatron pretrain` and `megatron finetune`.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "base/error.h"
#include "base/hash.h"
#include "base/strings.h"
#include "cli/commands.h"
#include "cli/config_options.h"
#include "cli/stop.h"
#include "comm/launch.h"
#include "comm/start_check.h"
#include "parallel/mesh.h"
#include "train/compare_devices.h"
#include "train/data_setup.h"
#include "train/model_state.h"
#include "train/plan_report.h"
#include "train/programs.h"
#include "train/trainer.h"

namespace megatron {
namespace {

struct TrainCommand {
  ConfigOptions config;
  bool dry_run = false;
  std::string compare_with;
};

/// Runs one micro-batch on the configured device and on the CPU and names the first operation that differs.
void compare_devices(const LoadedConfig& loaded) {
  const Config& config = loaded.config;
  const RunData data = open_data(config);
  TrainEngine engine(config, make_train_programs(config, data.vocab_size, ParallelContext()));
  initialize_parameters(engine.train_program(), engine.store(), static_cast<uint64_t>(config.run.seed), engine.pool());
  std::vector<int64_t> samples;
  for (int64_t i = 0; i < config.training.micro_batch_size; ++i) samples.push_back(i);
  const DeviceComparison outcome =
      compare_with_cpu(engine, config, make_batch(*data.splits.train, samples, data.batch_options));
  std::printf("%s against cpu: %lld operations, %lld values\n", engine.device().description().c_str(),
              static_cast<long long>(outcome.operations), static_cast<long long>(outcome.values));
  if (!outcome.nearest.op.empty()) std::printf("nearest to its tolerance: %s\n", outcome.nearest.text().c_str());
  if (outcome.first) throw DeviceError("the first that differs: " + outcome.first->text());
  std::printf("all within their tolerances\n");
}

/// Everything but the training: configuration, data, programs, memory.
void dry_run(const LoadedConfig& loaded, World& world) {
  const RunData data = open_data(loaded.config);
  std::vector<std::string> decisions = loaded.decisions;
  decisions.insert(decisions.end(), data.splits.notes.begin(), data.splits.notes.end());
  const ParallelContext parallel = make_parallel_context(loaded.config, world.size(), world.rank());
  const TrainPrograms programs = make_train_programs(loaded.config, data.vocab_size, parallel);
  if (world.rank() > 0) return;
  std::printf("%s", describe_plan(loaded.config, programs, decisions).c_str());
  std::printf("dry run: configuration, tokenizer, data and plan are fine; nothing was trained\n");
}

/// The run as one of the ranks that were started together; the world has ended when this returns.
ExitCode train_on_world(const TrainCommand& command, const TrainOptions& options) {
  ExitCode code = ExitCode::kDone;
  const std::unique_ptr<World> world = join_world(detect_launch(process_environment()));
  run_as_rank(*world, [&] {
    const LoadedConfig loaded = load_config(command.config, world->size());
    if (world->size() > 1) {
      compare_start(*world, {{"build", build_identity()}, {"configuration", hex64(xxh64(to_yaml(loaded.config)))}});
    }
    if (!command.compare_with.empty()) {
      if (world->size() > 1) throw UsageError("--compare-with: compares one rank; start it without mpirun");
      return compare_devices(loaded);
    }
    if (command.dry_run) return dry_run(loaded, *world);
    if (options.finetune && loaded.config.checkpoint.load.empty()) {
      throw UsageError("checkpoint.load: finetune starts from the weights of a checkpoint; name its folder");
    }
    code = run_training(loaded, options, *world);
  });
  return code;
}

void add_training_command(CLI::App& app, const std::string& name, const std::string& description, bool finetune) {
  CLI::App* command = app.add_subcommand(name, description);
  auto options = std::make_shared<TrainCommand>();
  add_config_options(*command, options->config);
  command->add_flag("--dry-run", options->dry_run,
                    "Check configuration, tokenizer and data, print the plan, train nothing");
  command
      ->add_option(
          "--compare-with", options->compare_with,
          "Train nothing: run one micro-batch on run.device and on this device, each operation from the same "
          "bits, and name the first operation that differs (exit code 4). Takes the memory of the plan without "
          "reuse, twice: make the model small with --set")
      ->check(CLI::IsMember({"cpu"}));
  command->callback([options, command, finetune] {
    TrainOptions train;
    train.arguments = {"megatron", command->get_name()};
    for (const std::string& file : options->config.files)
      train.arguments.insert(train.arguments.end(), {"--config", file});
    for (const std::string& set : options->config.sets) train.arguments.insert(train.arguments.end(), {"--set", set});
    train.finetune = finetune;
    if (train_on_world(*options, train) == ExitCode::kResumable) throw StoppedResumable();
  });
}

}  // namespace

void add_pretrain_command(CLI::App& app) {
  add_training_command(app, "pretrain",
                       "Train a model from its configuration; the same command goes on from the newest checkpoint",
                       false);
}

void add_finetune_command(CLI::App& app) {
  add_training_command(app, "finetune",
                       "Train on from the weights of checkpoint.load, with fresh optimizer, schedule and data", true);
}

}  // namespace megatron
