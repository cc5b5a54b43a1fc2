// `megatron bench ops`: runs the case tables of the operations (kernels/<op>/cases.h).
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/strings.h"
#include "base/thread_pool.h"
#include "cli/bench.h"
#include "cli/machine_file.h"
#include "kernels/all_cases.h"
#include "kernels/gpu_speed_cases.h"
#include "kernels/linear/gemm_cpu.h"
#include "train/machine_profile.h"

namespace megatron {
namespace {

struct BenchOpsOptions {
  std::string mode = "test", device = "cpu";
  std::vector<std::string> ops, dtypes;
  int threads = 0;
  double seconds = 0.2;
  bool json = false, verbose = false;
  std::string machine;  ///< file

  DeviceKind kind() const { return device == "cuda" ? DeviceKind::kCuda : DeviceKind::kCpu; }
};

constexpr DType kFloating[] = {DType::kF64, DType::kF32, DType::kBF16, DType::kF16};
/// Bytes per second that a well-kept kernel reaches on an H100, beside which GPU figures are also put.
constexpr double kGpuBandwidth = 3.0e12;

std::vector<OpCases> chosen_ops(const BenchOpsOptions& options) {
  const bool large = options.mode == "perf" && options.kind() == DeviceKind::kCuda;
  std::vector<OpCases> all = !large                    ? all_op_cases()
                             : options.machine.empty() ? gpu_speed_cases()
                                                       : gpu_machine_cases();
  if (options.ops.empty()) return all;
  std::vector<std::string> names;
  for (const OpCases& op : all) names.push_back(op.op);
  std::vector<OpCases> chosen;
  for (const std::string& name : options.ops) {
    const auto found = std::find_if(all.begin(), all.end(), [&](const OpCases& op) { return op.op == name; });
    if (found == all.end()) {
      const std::string near = closest_match(name, names);
      throw UsageError(str_cat("--op: there is no operation '", name, "'",
                               near.empty() ? "" : str_cat("; did you mean '", near, "'?"),
                               "\noperations: ", join(names, ", ")));
    }
    chosen.push_back(*found);
  }
  return chosen;
}

std::vector<DType> chosen_dtypes(const BenchOpsOptions& options, std::vector<DType> otherwise) {
  if (options.dtypes.empty()) return otherwise;
  std::vector<DType> chosen;
  for (const std::string& name : options.dtypes) {
    chosen.push_back(parse_dtype(name));
    if (!is_floating(chosen.back())) throw UsageError("--dtype: '" + name + "' is not one of fp64, fp32, bf16, fp16");
  }
  return chosen;
}

CaseResult check_case(const BenchOpsOptions& options, const OpCase& c, DType dtype) {
  if (options.mode == "grad") return gradient_case(c);
  return options.mode == "test" ? test_case(c, dtype, options.kind()) : bitwise_case(c, dtype, options.kind());
}

/// What a check has seen so far.
struct Tally {
  nlohmann::json lines = nlohmann::json::array();
  int64_t count = 0, failed = 0;
};

void check_op(const BenchOpsOptions& options, const OpCases& op, DType dtype, Tally& tally) {
  double worst = 0;
  int cases = 0, bad = 0;
  for (const OpCase& c : op.cases) {
    if (c.speed) continue;
    const CaseResult result = check_case(options, c, dtype);
    ++cases;
    bad += result.passed ? 0 : 1;
    worst = std::max(worst, result.worst);
    if (options.json) {
      tally.lines.push_back({{"op", op.op},
                             {"case", c.name},
                             {"device", options.device},
                             {"dtype", name_of(dtype)},
                             {"passed", result.passed},
                             {"error", result.worst},
                             {"message", result.message}});
    } else if (!result.passed || options.verbose) {
      std::printf("  %s %s %s: %s\n", result.passed ? "ok  " : "FAIL", op.op.c_str(), c.name.c_str(),
                  result.passed ? str_cat("error ", result.worst).c_str() : result.message.c_str());
    }
  }
  tally.count += cases;
  tally.failed += bad;
  if (options.json) return;
  std::printf("%-18s %-5s %3d cases  %s  worst error %.2e\n", op.op.c_str(), std::string(name_of(dtype)).c_str(), cases,
              bad == 0 ? "ok    " : "FAILED", worst);
  std::fflush(stdout);
}

/// fp64 is an extra on CUDA: an operation without it is reported, and fails only where fp64 was asked for.
bool is_skipped(const BenchOpsOptions& options, const OpCases& op, DType dtype, Tally& tally) {
  if (options.kind() != DeviceKind::kCuda || dtype != DType::kF64 || !options.dtypes.empty()) return false;
  const std::string reason = why_unsupported(op, dtype, options.kind());
  if (reason.empty()) return false;
  if (options.json) {
    tally.lines.push_back({{"op", op.op},
                           {"device", options.device},
                           {"dtype", name_of(dtype)},
                           {"supported", false},
                           {"message", reason}});
  } else {
    std::printf("%-18s %-5s not supported: %s\n", op.op.c_str(), std::string(name_of(dtype)).c_str(), reason.c_str());
  }
  return true;
}

/// Runs one check over all chosen cases; throws InternalError when one fails.
void check(const BenchOpsOptions& options) {
  const bool gradient = options.mode == "grad";
  const std::vector<DType> dtypes =
      gradient ? std::vector<DType>{DType::kF64} : chosen_dtypes(options, {std::begin(kFloating), std::end(kFloating)});
  if (gradient && !options.dtypes.empty() && options.dtypes != std::vector<std::string>{"fp64"}) {
    throw UsageError("--dtype: --mode grad compares with finite differences, which needs fp64");
  }
  if (gradient && options.kind() == DeviceKind::kCuda) {
    throw UsageError("--device: --mode grad takes finite differences on the CPU; --mode test compares CUDA with it");
  }
  Tally tally;
  for (const OpCases& op : chosen_ops(options)) {
    for (const DType dtype : dtypes) {
      if (!is_skipped(options, op, dtype, tally)) check_op(options, op, dtype, tally);
    }
  }
  if (options.json) std::printf("%s\n", tally.lines.dump(1).c_str());
  if (tally.failed > 0) {
    throw InternalError(str_cat(tally.failed, " of ", tally.count, " cases failed (--mode ", options.mode, ")"));
  }
}

void print_speed(const OpCases& op, const OpCase& c, DType dtype, const char* phase, const PhaseSpeed& speed,
                 double copy, DeviceKind device, nlohmann::json* lines) {
  const double bandwidth = speed.bytes / speed.seconds, rate = speed.flops / speed.seconds;
  if (lines != nullptr) {
    lines->push_back({{"op", op.op},
                      {"case", c.name},
                      {"device", device == DeviceKind::kCuda ? "cuda" : "cpu"},
                      {"dtype", name_of(dtype)},
                      {"phase", phase},
                      {"seconds", speed.seconds},
                      {"bytes", speed.bytes},
                      {"flops", speed.flops},
                      {"bytes_per_second", bandwidth},
                      {"flops_per_second", rate},
                      {"copy_bytes_per_second", copy}});
    return;
  }
  std::printf("%-18s %-30s %-5s %-8s %9.3f ms %8.2f GB/s %5.0f %% of copy %8.2f GFLOP/s", op.op.c_str(), c.name.c_str(),
              std::string(name_of(dtype)).c_str(), phase, 1e3 * speed.seconds, 1e-9 * bandwidth, 100 * bandwidth / copy,
              1e-9 * rate);
  if (device == DeviceKind::kCuda)
    std::printf(" %5.0f %% of %.1f TB/s", 100 * bandwidth / kGpuBandwidth, 1e-12 * kGpuBandwidth);
  std::printf("\n");
}

void measure(const BenchOpsOptions& options) {
  const DeviceKind device = options.kind();
  const bool cuda = device == DeviceKind::kCuda;
  const std::vector<OpCases> ops = chosen_ops(options);
  const std::vector<DType> dtypes = chosen_dtypes(options, {DType::kF32, DType::kBF16});
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  ThreadPool pool(options.threads > 0 ? options.threads : cores);
  const double copy = measure_copy(pool, device);
  const std::string name = cuda ? describe_device(device) : str_cat("cpu, ", pool.threads(), " threads");
  nlohmann::json lines = nlohmann::json::array();
  nlohmann::json* target = options.json ? &lines : nullptr;
  if (!options.json) std::printf("%s, copy %.2f GB/s (read + written)\n", name.c_str(), 1e-9 * copy);
  for (const OpCases& op : ops) {
    for (const OpCase& c : op.cases) {
      if (!c.speed) continue;
      for (const DType dtype : dtypes) {
        const CaseSpeed speed = measure_case(c, dtype, pool, options.seconds, device);
        print_speed(op, c, dtype, "forward", speed.forward, copy, device, target);
        if (speed.backward.seconds > 0) print_speed(op, c, dtype, "backward", speed.backward, copy, device, target);
        std::fflush(stdout);
      }
    }
  }
  if (options.json) std::printf("%s\n", lines.dump(1).c_str());
}

/// FLOP/s of the fastest product among the points of 16-bit types, or of all when there are none.
double fastest_product(const std::vector<OperationPoint>& points) {
  double best = 0, best_wide = 0;
  for (const OperationPoint& p : points) {
    if (p.kind != "linear") continue;
    double& target = size_of(p.dtype) == 2 ? best : best_wide;
    target = std::max(target, p.flops / p.seconds);
  }
  return best > 0 ? best : best_wide;
}

/// Times every operation alone and writes section `machine`. Points of operations that are not measured now stay.
void measure_machine(const BenchOpsOptions& options) {
  const DeviceKind device = options.kind();
  const std::string name = describe_device(device);
  MachineConfig machine = read_machine_file_of(options.machine, name);
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  ThreadPool pool(options.threads > 0 ? options.threads : cores);
  machine.measured = measured_today();
  machine.copy_bandwidth = measure_copy(pool, device);
  machine.launch_seconds = measure_launch(pool, device);
  std::printf("%s, copy %.2f GB/s (read + written), an empty operation %.2f us\n", name.c_str(),
              1e-9 * machine.copy_bandwidth, 1e6 * machine.launch_seconds);
  std::vector<OperationPoint> points;
  for (const OpCases& op : chosen_ops(options)) {
    for (const OpCase& c : op.cases) {
      if (!c.speed) continue;
      for (const DType dtype : chosen_dtypes(options, {DType::kBF16})) {
        for (const OperationSpeed& s : measure_operations(c, dtype, pool, options.seconds, device)) {
          points.push_back({s.speed_class, dtype, s.cost.flops, s.cost.bytes, s.seconds});
          std::printf("%-34s %s\n", c.name.c_str(), to_text(points.back()).c_str());
          std::fflush(stdout);
        }
      }
    }
  }
  std::set<std::pair<std::string, DType>> fresh;
  for (const OperationPoint& p : points) fresh.emplace(p.kind, p.dtype);
  for (const OperationPoint& old : read_operations(machine)) {
    if (fresh.count({old.kind, old.dtype}) == 0) points.push_back(old);
  }
  machine.matrix_flops = fastest_product(points);
  machine.operations.clear();
  for (const OperationPoint& p : points) machine.operations.push_back(to_text(p));
  write_machine_file(options.machine, machine);
  std::printf("%zu operations, products at up to %.1f TFLOP/s: %s\n", points.size(), 1e-12 * machine.matrix_flops,
              options.machine.c_str());
}

/// For operations that have several on a GPU.
void print_implementations(const OpCases& op, DType dtype, nlohmann::json* lines) {
  for (const std::string& line : implementations(op, dtype)) {
    if (lines != nullptr) {
      lines->push_back({{"op", op.op}, {"dtype", name_of(dtype)}, {"implementation", line}});
    } else {
      std::printf("%s\n", line.c_str());
    }
  }
}

void support(const BenchOpsOptions& options) {
  nlohmann::json lines = nlohmann::json::array();
  const std::vector<DType> dtypes = chosen_dtypes(options, {std::begin(kFloating), std::end(kFloating)});
  const std::vector<OpCases> ops = chosen_ops(options);
  if (!options.json) {
    std::printf("%-18s", options.device.c_str());
    for (const DType dtype : dtypes) std::printf(" %-5s", std::string(name_of(dtype)).c_str());
    std::printf("\n");
  }
  for (const OpCases& op : ops) {
    if (!options.json) std::printf("%-18s", op.op.c_str());
    for (const DType dtype : dtypes) {
      const bool supported = why_unsupported(op, dtype, options.kind()).empty();
      if (options.json) {
        lines.push_back(
            {{"op", op.op}, {"device", options.device}, {"dtype", name_of(dtype)}, {"supported", supported}});
      } else {
        std::printf(" %-5s", supported ? "yes" : "no");
      }
    }
    if (!options.json) std::printf("\n");
  }
  if (options.kind() == DeviceKind::kCuda) {
    for (const OpCases& op : chosen_ops(options)) {
      for (const DType dtype : dtypes) print_implementations(op, dtype, options.json ? &lines : nullptr);
    }
  }
  if (options.json) std::printf("%s\n", lines.dump(1).c_str());
}

void run(const BenchOpsOptions& options) {
#ifndef MEGATRON_HAVE_CUDA
  if (options.kind() == DeviceKind::kCuda) {
    throw UsageError("--device: this program was built without CUDA; build it with -DMEGATRON_CUDA=ON, or use cpu");
  }
#endif
  // Without a GPU every case would fail with the same message.
  if (options.kind() == DeviceKind::kCuda) describe_device(options.kind());
  verify_blas();
  if (!options.machine.empty() && (options.mode != "perf" || options.json)) {
    throw UsageError("--machine: goes with --mode perf, without --json");
  }
  if (!options.machine.empty()) return measure_machine(options);
  if (options.mode == "perf") return measure(options);
  if (options.mode == "support") return support(options);
  check(options);
}

}  // namespace

void add_bench_ops_command(CLI::App& bench) {
  auto options = std::make_shared<BenchOpsOptions>();
  CLI::App* ops = bench.add_subcommand("ops", "Check and time the operations from their case tables.");
  ops->add_option("--mode", options->mode,
                  "test: results and gradients in every type against fp64 on the same rounded inputs; "
                  "grad: gradients against finite differences in fp64; "
                  "bitwise: equal bits with 1, 2 and 3 threads (cuda: in two runs), with and without memory reuse; "
                  "perf: median time, bytes per second beside a copy, FLOP/s; "
                  "support: which operation runs in which type")
      ->check(CLI::IsMember({"test", "grad", "bitwise", "perf", "support"}))
      ->capture_default_str();
  ops->add_option("--device", options->device,
                  "cpu, or cuda: GPU 0, compared with the CPU in fp64; perf then takes larger cases")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  ops->add_option("--op", options->ops, "Operations, comma-separated (default: all)")->delimiter(',');
  ops->add_option("--dtype", options->dtypes,
                  "fp64, fp32, bf16, fp16, comma-separated (default: all; perf: fp32,bf16; grad: fp64 only)")
      ->delimiter(',');
  ops->add_option("--threads", options->threads, "perf: threads (default: all cores)")->check(CLI::Range(0, 1024));
  ops->add_option("--seconds", options->seconds, "perf: time for each case and type")
      ->check(CLI::Range(0.001, 3600.0))
      ->capture_default_str();
  ops->add_option(
         "--machine", options->machine,
         "perf: time every operation alone, in bf16 where --dtype says nothing else, and write FILE, from which "
         "`megatron plan --machine FILE` reckons the time of a step")
      ->type_name("FILE");
  ops->add_flag("--json", options->json, "One JSON array on standard output");
  ops->add_flag("--verbose", options->verbose, "Print every case, not only those that fail");
  ops->footer("Ends with 0 when every case passes, with 70 when one fails.");
  ops->callback([options] { run(*options); });
}

}  // namespace megatron
