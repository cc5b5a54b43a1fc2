// `megatron bench step`: speed of the training step of a configuration, with nothing else in the way: no files, no
// evaluation, batches prepared before the clock runs. Under mpirun the step is that of all ranks.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/strings.h"
#include "cli/bench.h"
#include "cli/config_options.h"
#include "comm/launch.h"
#include "comm/start_check.h"
#include "parallel/mesh.h"
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
  bool ops = false, json = false, no_comm = false;
};

struct StepTimes {
  std::vector<double> step;  ///< seconds from one result to the next
  std::vector<double> host;  ///< seconds in which the host gave one step to an idle device
  double first = 0;          ///< seconds of the first step, with the choice of algorithms
  int64_t skipped = 0;       ///< steps whose gradients were not finite: they take another time
};

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// This rank's micro-batches of a few global batches, made ahead.
std::vector<std::vector<Batch>> prepare(const Config& config, const RunData& data, const RankContext& ranks,
                                        int count) {
  const int64_t size = config.training.micro_batch_size, global = config.training.global_batch_size;
  const SampleShare share = data_parallel_share(size, ranks.data_rank(), ranks.data_size());
  BatchLoader loader(data.splits.train, ranks.share_sequences(data.batch_options), share, 0, 2);
  std::vector<std::vector<Batch>> batches(static_cast<size_t>(count));
  for (std::vector<Batch>& one : batches) {
    for (int64_t i = micro_batches_of(config, ranks.parallel().mesh(), global); i > 0; --i)
      one.push_back(loader.next());
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
  const auto settle = [&] {
    const StepMetrics step = pipeline.settle();
    times.skipped += step.skipped ? 1 : 0;
    return step.step_seconds;
  };
  for (int i = 0; i < std::max(1, options.warmup); ++i) {
    const Clock::time_point begin = Clock::now();
    submit();
    settle();
    if (i == 0) times.first = since(begin);
  }
  engine.ranks().world().barrier();
  // The device always has the next step before it ends one. The first result comes late, since its step began with an
  // idle device, and those after the last submission early: neither counts.
  for (bool warm = false; std::ssize(times.step) < options.steps;) {
    submit();
    if (pipeline.in_flight() <= pipeline.depth()) continue;
    const double seconds = settle();
    if (std::exchange(warm, true)) times.step.push_back(seconds);
  }
  while (pipeline.in_flight() > 0) settle();
  for (int i = 0; i < 5 && engine.device().asynchronous(); ++i) {
    engine.device().synchronize();
    const Clock::time_point begin = Clock::now();
    submit();
    times.host.push_back(since(begin));
    settle();
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

/// What one rank measured.
nlohmann::json report_of_rank(TrainEngine& engine, const StepTimes& times) {
  nlohmann::json out = {{"host", engine.ranks().world().info().host},
                        {"device", engine.device().description()},
                        {"steps", times.step.size()},
                        {"step_seconds", median(times.step)},
                        {"step_seconds_min", *std::min_element(times.step.begin(), times.step.end())},
                        {"step_seconds_max", *std::max_element(times.step.begin(), times.step.end())},
                        {"first_step_seconds", times.first},
                        {"skipped_steps", times.skipped},
                        {"planned_bytes", memory_report(engine.programs()).allocated()},
                        {"allocated_bytes", engine.device().allocated_bytes()},
                        {"library_bytes", engine.library_bytes()}};
  out["host_seconds"] = times.host.empty() ? nlohmann::json() : nlohmann::json(median(times.host));
  return out;
}

/// The whole job: the slowest rank's times and the largest memory, speeds of all ranks together. `each`: by rank.
nlohmann::json report(const BenchStepOptions& options, const Config& config, TrainEngine& engine,
                      const nlohmann::json& each) {
  const ModelSpec& spec = engine.programs().spec;
  const int64_t tokens = config.training.global_batch_size * spec.seq_length;
  nlohmann::json out = each[0];
  for (const nlohmann::json& rank : each) {
    for (const char* key : {"step_seconds", "step_seconds_max", "first_step_seconds", "skipped_steps", "planned_bytes",
                            "allocated_bytes", "library_bytes", "host_seconds"}) {
      if (!rank[key].is_null()) out[key] = std::max(out[key], rank[key]);
    }
    out["step_seconds_min"] = std::min(out["step_seconds_min"], rank["step_seconds_min"]);
  }
  StepMetrics m;
  m.step_seconds = out["step_seconds"];
  set_rates(m, tokens, flops_per_token(spec) * static_cast<double>(tokens), engine.ranks().size(),
            dense_peak_flops(engine.device().description(), spec.dtype));
  out["micro_batch_size"] = config.training.micro_batch_size;
  out["global_batch_size"] = config.training.global_batch_size;
  out["seq_length"] = spec.seq_length;
  out["parameters"] = parameter_count(spec);
  out["tokens_per_second"] = m.tokens_per_second;
  out["tflops"] = m.tflops_per_gpu ? nlohmann::json(*m.tflops_per_gpu) : nlohmann::json();
  out["mfu"] = m.mfu ? nlohmann::json(*m.mfu) : nlohmann::json();
  out["ranks"] = engine.ranks().size();
  out["communication"] = !options.no_comm;
  nlohmann::json mesh = nlohmann::json::object();
  for (const MeshAxis& axis : engine.ranks().parallel().mesh().axes) mesh[axis.name] = axis.size;
  out["mesh"] = mesh;
  out["by_rank"] = each;
  return out;
}

/// Every rank's report, by rank. A collective call.
nlohmann::json gather_reports(World& world, const nlohmann::json& mine) {
  nlohmann::json all = nlohmann::json::array();
  for (const std::string& text : world.gather(mine.dump())) all.push_back(nlohmann::json::parse(text));
  return all;
}

/// Ranks, mesh, and how far the ranks' medians lie apart.
void print_ranks(const nlohmann::json& r) {
  std::string axes;
  for (const auto& [name, size] : r["mesh"].items()) axes += str_cat(axes.empty() ? "" : ", ", name, " ", size.dump());
  size_t fastest = 0, slowest = 0;
  const auto seconds = [&](size_t rank) { return r["by_rank"][rank]["step_seconds"].get<double>(); };
  for (size_t rank = 1; rank < r["by_rank"].size(); ++rank) {
    if (seconds(rank) < seconds(fastest)) fastest = rank;
    if (seconds(rank) > seconds(slowest)) slowest = rank;
  }
  std::printf("ranks         %10d: %s; medians from %.3f ms (rank %zu) to %.3f ms (rank %zu, %s)\n",
              r["ranks"].get<int>(), axes.c_str(), seconds(fastest) * 1e3, fastest, seconds(slowest) * 1e3, slowest,
              r["by_rank"][slowest]["host"].get<std::string>().c_str());
}

void print_report(const nlohmann::json& r) {
  const auto number = [&](const char* key) { return r[key].is_null() ? 0.0 : r[key].get<double>(); };
  const double step = number("step_seconds");
  std::printf("%s, %lld x %lld tokens a step in micro-batches of %lld\n", r["device"].get<std::string>().c_str(),
              static_cast<long long>(r["global_batch_size"]), static_cast<long long>(r["seq_length"]),
              static_cast<long long>(r["micro_batch_size"]));
  if (!r["communication"]) {
    std::printf("              NO COMMUNICATION: collectives are copies on each rank, results mean nothing\n");
  }
  if (r["ranks"] > 1) print_ranks(r);
  std::printf("step          %10.3f ms (median of %lld; %.3f to %.3f), the first %.2f s\n", step * 1e3,
              static_cast<long long>(r["steps"]), number("step_seconds_min") * 1e3, number("step_seconds_max") * 1e3,
              number("first_step_seconds"));
  const bool several = r["ranks"] > 1;
  std::printf("throughput    %10s tokens/s%s", format_count(number("tokens_per_second")).c_str(),
              several ? " of all ranks" : "");
  if (!r["tflops"].is_null()) std::printf(", %.1f TFLOP/s%s", number("tflops"), several ? " a rank" : "");
  if (!r["mfu"].is_null()) std::printf(", MFU %.1f %%", 100 * number("mfu"));
  std::printf("\n");
  if (!r["host_seconds"].is_null()) {
    std::printf("host          %10.3f ms to enqueue a step, %.2f %% of it\n", number("host_seconds") * 1e3,
                100 * number("host_seconds") / step);
  }
  std::printf("memory        %10s planned, %s allocated, %s taken by libraries and the driver\n",
              format_bytes(number("planned_bytes")).c_str(), format_bytes(number("allocated_bytes")).c_str(),
              format_bytes(number("library_bytes")).c_str());
  if (r["skipped_steps"] > 0) {
    std::printf("warning: %lld steps were skipped, as their gradients were not finite; times are not to be trusted\n",
                static_cast<long long>(r["skipped_steps"]));
  }
}

void run_rank(const BenchStepOptions& options, World& world) {
  LoadedConfig loaded = load_config(options.config, world.size());
  if (world.size() > 1) {
    compare_start(world, {{"build", build_identity()}, {"configuration", hex64(xxh64(to_yaml(loaded.config)))}});
  }
  if (world.rank() > 0) set_log_level(LogLevel::kError);
  Config& config = loaded.config;
  config.training.step_batch_size_schedule.clear();  // the last size is measured
  if (options.ops && config.parallel.pipeline_model_parallel_size > 1) {
    throw UsageError("--ops: operations are timed without a pipeline; set parallel.pipeline_model_parallel_size=1");
  }
  config.run.replay_non_finite = false;  // it is the time of steps that is asked for
  const auto ranks = std::make_shared<RankContext>(config, world, options.no_comm ? Traffic::kLocal : Traffic::kReal);
  const RunData data = open_data(config);
  TrainEngine engine(config, make_train_programs(config, data.vocab_size, ranks->parallel()), ranks);
  initialize_parameters(engine.train_program(), engine.store(), static_cast<uint64_t>(config.run.seed), engine.pool());
  const auto batches = prepare(config, data, *ranks, 4);
  const StepTimes times = measure(options, config, engine, batches);
  const nlohmann::json each = gather_reports(world, report_of_rank(engine, times));
  std::vector<OpTime> operations;
  if (options.ops) operations = engine.time_operations(batches[0][0]);
  if (world.rank() > 0) return;
  const nlohmann::json result = report(options, config, engine, each);
  if (options.json) {
    std::printf("%s\n", result.dump(2).c_str());
  } else {
    print_report(result);
  }
  if (options.ops) print_ops(operations, static_cast<double>(batches[0].size()));
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
  command->add_flag(
      "--no-comm", options->no_comm,
      "Replace every collective by copies on each rank, with the same shapes and streams: the step as "
      "if communication were free (on a pipeline also without its bubble). What it computes means nothing");
  command->add_flag("--json", options->json, "Print the result as one JSON object");
  command->footer(
      "On several ranks (mpirun -n 8 megatron bench step ...) the step takes as long as on the slowest rank, tokens/s "
      "are those of the whole job, TFLOP/s and memory those of one rank.");
  command->callback([options] {
    if (options->json && options->ops) throw UsageError("--ops: prints a table; leave --json out");
    run(*options);
  });
}

}  // namespace megatron
