// `megatron bench step`: speed of the training step of a configuration, with nothing else in the way: no files, no
// evaluation, batches prepared before the clock runs. Under mpirun (and the other launchers) it is the step of all
// ranks together, as the first of them sees it.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/strings.h"
#include "cli/bench.h"
#include "cli/config_options.h"
#include "comm/launch.h"
#include "program/plan.h"
#include "train/data_setup.h"
#include "train/engine.h"
#include "train/metrics.h"
#include "train/model_state.h"
#include "train/op_times.h"
#include "train/step_pipeline.h"

namespace megatron {
namespace {

using Clock = std::chrono::steady_clock;

struct BenchStepOptions {
  ConfigOptions config;
  int steps = 20, warmup = 5;
  bool ops = false, json = false;
};

struct StepTimes {
  std::vector<double> step;  ///< seconds from one result to the next
  std::vector<double> host;  ///< seconds in which the host gave one step to an idle device
  double first = 0;          ///< seconds of the first step, with the choice of algorithms
};

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// The micro-batches of a few global batches, made ahead.
std::vector<std::vector<Batch>> prepare(const Config& config, const RunData& data, const RankContext& ranks,
                                        int count) {
  const int64_t size = config.training.micro_batch_size, global = config.training.global_batch_size;
  const SampleShare share = data_parallel_share(size, ranks.data_rank(), ranks.data_size());
  BatchLoader loader(data.splits.train, data.batch_options, share, 0, 2);
  std::vector<std::vector<Batch>> batches(static_cast<size_t>(count));
  for (std::vector<Batch>& one : batches) {
    for (int64_t i = 0; i < global / (size * ranks.data_size()); ++i) one.push_back(loader.next());
  }
  return batches;
}

StepTimes measure(const BenchStepOptions& options, const Config& config, TrainEngine& engine,
                  const std::vector<std::vector<Batch>>& batches) {
  const LossScaler scaler = make_loss_scaler(config.precision);
  Progress start;
  start.scaler = initial_state(scaler);
  StepPipeline pipeline(config, engine, resolve_schedule(config.optimizer, config.training), scaler, start);
  StepTimes times;
  size_t next = 0;
  const auto submit = [&] { pipeline.submit(batches[next++ % batches.size()], 0); };
  for (int i = 0; i < std::max(1, options.warmup); ++i) {
    const Clock::time_point begin = Clock::now();
    submit();
    pipeline.settle();
    if (i == 0) times.first = since(begin);
  }
  for (int i = 0; i < options.steps; ++i) {  // the device always has the next step before it ends one
    submit();
    if (pipeline.in_flight() > pipeline.depth()) times.step.push_back(pipeline.settle().step_seconds);
  }
  while (pipeline.in_flight() > 0) times.step.push_back(pipeline.settle().step_seconds);
  if (times.step.size() > 1) times.step.erase(times.step.begin());  // it began with an idle device
  for (int i = 0; i < 5 && engine.device().asynchronous(); ++i) {
    engine.device().synchronize();
    const Clock::time_point begin = Clock::now();
    submit();
    times.host.push_back(since(begin));
    pipeline.settle();
  }
  return times;
}

void print_ops(const std::vector<OpTime>& rows, double micro_batches) {
  double total = 0;
  const auto scale = [&](const OpTime& row) { return row.per_micro_batch ? micro_batches : 1; };
  for (const OpTime& row : rows) total += row.seconds * scale(row);
  std::printf("\n%-26s %-5s %6s %10s %7s %10s %10s\n", "operation", "phase", "calls", "ms/step", "share", "TFLOP/s",
              "GB/s");
  for (const OpTime& row : rows) {
    std::printf("%-26s %-5s %6lld %10.3f %6.1f%% %10.1f %10.0f\n", row.op.c_str(), row.phase.c_str(),
                static_cast<long long>(row.calls), row.seconds * scale(row) * 1e3,
                100 * row.seconds * scale(row) / total, row.flops / row.seconds * 1e-12,
                row.bytes / row.seconds * 1e-9);
  }
  std::printf("%-26s %-5s %6s %10.3f   one operation at a time, in the order of the lists\n", "total", "", "",
              total * 1e3);
}

nlohmann::json report(const Config& config, TrainEngine& engine, const StepTimes& times) {
  const ModelSpec& spec = engine.programs().spec;
  const int64_t tokens = config.training.global_batch_size * spec.seq_length;
  StepMetrics m;
  m.step_seconds = median(times.step);
  set_rates(m, tokens, flops_per_token(spec) * static_cast<double>(tokens), engine.ranks().size(),
            dense_peak_flops(engine.device().description(), spec.dtype));
  const MemoryReport memory = memory_report(engine.programs());
  nlohmann::json out = {{"device", engine.device().description()},
                        {"ranks", engine.ranks().size()},
                        {"micro_batch_size", config.training.micro_batch_size},
                        {"global_batch_size", config.training.global_batch_size},
                        {"seq_length", spec.seq_length},
                        {"parameters", parameter_count(spec)},
                        {"steps", times.step.size()},
                        {"step_seconds", m.step_seconds},
                        {"step_seconds_min", *std::min_element(times.step.begin(), times.step.end())},
                        {"step_seconds_max", *std::max_element(times.step.begin(), times.step.end())},
                        {"first_step_seconds", times.first},
                        {"tokens_per_second", m.tokens_per_second},
                        {"planned_bytes", memory.allocated()},
                        {"allocated_bytes", engine.device().allocated_bytes()},
                        {"library_bytes", engine.library_bytes()}};
  out["host_seconds"] = times.host.empty() ? nlohmann::json() : nlohmann::json(median(times.host));
  out["tflops"] = m.tflops_per_gpu ? nlohmann::json(*m.tflops_per_gpu) : nlohmann::json();
  out["mfu"] = m.mfu ? nlohmann::json(*m.mfu) : nlohmann::json();
  return out;
}

void print_report(const nlohmann::json& r) {
  const auto number = [&](const char* key) { return r[key].is_null() ? 0.0 : r[key].get<double>(); };
  const double step = number("step_seconds");
  std::printf("%lld x %s, %lld x %lld tokens a step in micro-batches of %lld\n", static_cast<long long>(r["ranks"]),
              r["device"].get<std::string>().c_str(), static_cast<long long>(r["global_batch_size"]),
              static_cast<long long>(r["seq_length"]), static_cast<long long>(r["micro_batch_size"]));
  std::printf("step          %10.3f ms (median of %lld; %.3f to %.3f), the first %.2f s\n", step * 1e3,
              static_cast<long long>(r["steps"]), number("step_seconds_min") * 1e3, number("step_seconds_max") * 1e3,
              number("first_step_seconds"));
  std::printf("throughput    %10s tokens/s", format_count(number("tokens_per_second")).c_str());
  if (!r["tflops"].is_null()) std::printf(", %.1f TFLOP/s a rank", number("tflops"));
  if (!r["mfu"].is_null()) std::printf(", MFU %.1f %%", 100 * number("mfu"));
  std::printf("\n");
  if (!r["host_seconds"].is_null()) {
    std::printf("host          %10.3f ms to enqueue a step, %.2f %% of it\n", number("host_seconds") * 1e3,
                100 * number("host_seconds") / step);
  }
  std::printf("memory        %10s planned, %s allocated, %s taken by libraries and the driver\n",
              format_bytes(number("planned_bytes")).c_str(), format_bytes(number("allocated_bytes")).c_str(),
              format_bytes(number("library_bytes")).c_str());
}

void run_rank(const BenchStepOptions& options, World& world) {
  const LoadedConfig loaded = load_config(options.config, world.size());
  const Config& config = loaded.config;
  const auto ranks = std::make_shared<RankContext>(config, world);
  const RunData data = open_data(config);
  TrainEngine engine(config, make_train_programs(config, data.vocab_size, ranks->parallel()), ranks);
  initialize_parameters(engine.train_program(), engine.store(), static_cast<uint64_t>(config.run.seed), engine.pool());
  const auto batches = prepare(config, data, *ranks, 4);
  const StepTimes times = measure(options, config, engine, batches);
  if (ranks->is_first()) {
    const nlohmann::json result = report(config, engine, times);
    if (options.json) {
      std::printf("%s\n", result.dump(2).c_str());
    } else {
      print_report(result);
    }
  }
  if (!options.ops) return;
  const std::vector<OpTime> rows = engine.time_operations(batches[0][0]);
  if (ranks->is_first()) print_ops(rows, static_cast<double>(batches[0].size()));
}

void run(const BenchStepOptions& options) {
  const auto world = join_world(detect_launch(process_environment()));
  run_as_rank(*world, [&] { run_rank(options, *world); });
}

}  // namespace

void add_bench_step_command(CLI::App& bench) {
  CLI::App* command =
      bench.add_subcommand("step", "Time the training step of a configuration: tokens/s, host time, memory");
  auto options = std::make_shared<BenchStepOptions>();
  add_config_options(*command, options->config);
  command->add_option("--steps", options->steps, "Steps to time")->check(CLI::Range(1, 100000))->capture_default_str();
  command->add_option("--warmup", options->warmup, "Steps before them")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  command->add_flag("--ops", options->ops, "Also time every operation alone and print a table by kind");
  command->add_flag("--json", options->json, "Print the result as one JSON object");
  command->callback([options] {
    if (options->json && options->ops) throw UsageError("--ops: prints a table; leave --json out");
    run(*options);
  });
}

}  // namespace megatron
