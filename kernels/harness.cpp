#include "kernels/harness.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "base/error.h"
#include "base/strings.h"
#include "kernels/attention/attention.h"
#include "kernels/cast/cast.h"
#include "kernels/harness_run.h"
#ifdef MEGATRON_HAVE_CUDA
#include "base/philox.h"
#include "kernels/cuda/timer.h"
#include "kernels/linear/gemm_cuda.h"
#include "kernels/linear/linear.h"
#endif

namespace megatron {

using namespace harness;  // NOLINT: the other half of this file

namespace {

double unit_roundoff(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return std::ldexp(1.0, -53);
    case DType::kF32:
      return std::ldexp(1.0, -24);
    case DType::kBF16:
      return std::ldexp(1.0, -8);
    case DType::kF16:
      return std::ldexp(1.0, -11);
    default:
      fail_dtype("unit_roundoff", dtype);
  }
}

void fail(CaseResult& result, const std::string& message) {
  if (result.passed) result.message = message;
  result.passed = false;
}

/// Name of the reference for `name`: the reference has no master copies, its parameter is the master.
std::string reference_name(const OpCase& c, const std::string& name) {
  for (size_t i = 0; i < c.operands.size(); ++i) {
    if (c.operands[i].type == CaseOperand::Type::kMaster && name == str_cat("state ", i, " ", c.operands[i].name)) {
      return str_cat("state 0 ", c.operands[0].name);
    }
  }
  return name;
}

/// The lowest number of a type stands for minus infinity in it (logarithm of an empty sum), whatever the type.
double with_infinity(double value) {
  return value <= static_cast<double>(std::numeric_limits<float>::lowest()) ? -std::numeric_limits<double>::infinity()
                                                                            : value;
}

/// Adds the comparison of one tensor to `result`. `factor`: the reference is multiplied by it.
void compare(const std::string& what, const Tensor& tested, const std::vector<double>& reference, double factor,
             double tolerance, CaseResult& result) {
  const std::vector<double> values = read_doubles(tested);
  if (values.size() != reference.size())
    return fail(result, str_cat(what, ": ", values.size(), " elements instead of ", reference.size()));
  double error = 0, power = 0, largest = -1;
  size_t place = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double expected = with_infinity(factor * reference[i]);
    if (with_infinity(values[i]) == expected) {  // also equal infinities
      if (std::isfinite(expected)) power += expected * expected;
      continue;
    }
    const double difference = std::abs(values[i] - expected);
    if (!(difference <= largest)) {
      largest = difference;
      place = i;
    }
    error += difference * difference;
    power += expected * expected;
  }
  const double nmse = error == 0 ? 0 : error / power;
  if (!(nmse <= result.worst)) result.worst = nmse;
  if (nmse <= tolerance) return;
  fail(result, str_cat(what, ": normalised mean squared error ", nmse, " exceeds ", tolerance, "; element ", place,
                       " is ", values[place], " instead of ", factor * reference[place]));
}

using Reference = std::map<std::string, std::vector<double>>;

Reference make_reference(const OpCase& c, const Contents& contents) {
  CaseRun run(c, {.compute = DType::kF64, .reuse = false});
  run.write(contents);
  run.run(Phase::kForward);
  if (run.differentiated()) run.run(Phase::kBackward);
  Reference reference;
  for (const auto& [name, copy] : run.outcome()) reference[name] = read_doubles(copy.tensor);
  return reference;
}

void compare_all(const OpCase& c, const CaseRun& run, const Reference& reference, bool second, DType dtype,
                 CaseResult& result) {
  for (const auto& [name, copy] : run.outcome()) {
    const Tensor& tensor = copy.tensor;
    const bool gradient = starts_with(name, "gradient");
    if (starts_with(name, "loss") || (second && !gradient)) continue;
    const auto found = reference.find(reference_name(c, name));
    if (found == reference.end()) {
      fail(result, name + " does not exist in the fp64 run");
      continue;
    }
    const double tolerance = is_floating(tensor.dtype) ? std::max(tolerance_of(dtype), tolerance_of(tensor.dtype)) : 0;
    // The second run adds to the gradients of the first.
    compare(name, tensor, found->second, second ? 2.0 : 1.0, tolerance, result);
  }
}

bool updates_state(const OpCase& c) {
  return std::any_of(c.operands.begin(), c.operands.end(), [](const CaseOperand& o) { return o.state; });
}

template <typename Body>
CaseResult guarded(Body&& body) {
  CaseResult result;
  try {
    body(result);
  } catch (const std::exception& error) {
    fail(result, error.what());
  }
  return result;
}

}  // namespace

double tolerance_of(DType dtype) {
  const double storage = unit_roundoff(dtype), accumulator = unit_roundoff(accumulation_dtype(dtype));
  return 2 * storage * storage + 16384 * accumulator * accumulator;
}

CaseResult test_case(const OpCase& c, DType dtype, DeviceKind device) {
  return guarded([&](CaseResult& result) {
    const Contents contents = make_contents(c, dtype);
    const Reference reference = make_reference(c, contents);
    for (const bool direct : {true, false}) {
      CaseRun run(
          c,
          {.compute = dtype, .taps = !direct, .reuse = direct, .all_results = !direct, .threads = 2, .device = device});
      run.write(contents);
      run.run(Phase::kForward);
      if (run.differentiated()) run.run(Phase::kBackward);
      compare_all(c, run, reference, false, dtype, result);
      if (!direct || !run.differentiated() || updates_state(c)) continue;
      run.run(Phase::kForward);
      run.run(Phase::kBackward);
      compare_all(c, run, reference, true, dtype, result);
    }
  });
}

CaseResult gradient_case(const OpCase& c) {
  constexpr double kTolerance = 1e-6, kStep = 2e-5;
  constexpr size_t kElements = 48;
  return guarded([&](CaseResult& result) {
    if (!has_gradient(c)) return;
    Contents contents = make_contents(c, DType::kF64);
    const Reference reference = make_reference(c, contents);
    CaseRun run(c, {.backward = false, .all_results = false});
    const auto loss_at = [&](double& element, double value) {
      const double saved = element;
      element = value;
      run.write(contents);
      run.run(Phase::kForward);
      element = saved;
      return run.loss();
    };
    for (const int i : differentiable_operands(c)) {
      const std::string name = str_cat("gradient of ", i, " ", c.operands[static_cast<size_t>(i)].name);
      const auto found = reference.find(name);
      std::vector<double>& values = contents[static_cast<size_t>(i)];
      if (values.empty()) continue;
      if (found == reference.end()) {
        fail(result, name + " was not made");
        continue;
      }
      double largest = 0;
      for (const double g : found->second) largest = std::max(largest, std::abs(g));
      const size_t count = std::min(values.size(), kElements);
      for (size_t k = 0; k < count; ++k) {
        const size_t j = k * values.size() / count;
        const double x = values[j], h = kStep * std::max(1.0, std::abs(x));
        const double near = loss_at(values[j], x + h) - loss_at(values[j], x - h);
        const double far = loss_at(values[j], x + 2 * h) - loss_at(values[j], x - 2 * h);
        const double expected = (8 * near - far) / (12 * h);
        const double error = std::abs(found->second[j] - expected) / std::max(largest, 1e-3);
        if (!(error <= result.worst)) result.worst = error;
        if (error <= kTolerance) continue;
        fail(result, str_cat(name, ": element ", j, " is ", found->second[j], ", finite differences give ", expected));
      }
    }
  });
}

CaseResult bitwise_case(const OpCase& c, DType dtype, DeviceKind device) {
  return guarded([&](CaseResult& result) {
    const bool cuda = device == DeviceKind::kCuda;
    if (cuda && !c.repeatable) return;
    const Contents contents = make_contents(c, dtype);
    std::map<std::string, std::vector<uint8_t>> first;
    for (const int threads : cuda ? std::vector<int>{1, 1} : std::vector<int>{1, 2, 3}) {
      for (const bool reuse : {false, true}) {
        CaseRun run(c, {.compute = dtype, .reuse = reuse, .threads = threads, .device = device});
        run.write(contents);
        run.run(Phase::kForward);
        if (run.differentiated()) run.run(Phase::kBackward);
        for (const auto& [name, copy] : run.outcome()) {
          if (cuda && starts_with(name, "loss")) continue;  // summed on the CPU only
          const std::vector<uint8_t> bytes = read_bytes(copy.tensor);
          const auto [place, fresh] = first.try_emplace(name, bytes);
          if (fresh || place->second == bytes) continue;
          const std::string where = cuda ? "in another run" : str_cat("with ", threads, " threads");
          fail(result, str_cat(name, " has other bits ", where, ", ", reuse ? "with" : "without", " memory reuse"));
        }
      }
    }
  });
}

namespace {

double median(std::vector<double>& times) {
  const auto middle = times.begin() + static_cast<int64_t>(times.size() / 2);
  std::nth_element(times.begin(), middle, times.end());
  return *middle;
}

#ifdef MEGATRON_HAVE_CUDA

double time_on_cuda(Device& device, double seconds, const std::function<void()>& launch) {
  constexpr int kWarmUp = 3;
  constexpr double kLeast = 10, kMost = 300, kOverhead = 1e-4;  // runs; seconds for emptying the cache
  StreamTimer timer(device);
  std::vector<double> times = timer.measure(kWarmUp, launch);
  const double runs = seconds / (times.back() + kOverhead);
  times = timer.measure(static_cast<int>(std::clamp(runs, kLeast, kMost)), launch);
  return median(times);
}

/// A GPU within a training step runs at the clock that products leave it, which is lower than that of an idle one.
/// Three products of about a third of a millisecond, of random numbers, bring it there; they also empty the cache.
class Heater {
 public:
  explicit Heater(Device& device)
      : device_(device),
        x_(device, kRows * kWidth * kElement),
        w_(device, kWidth * kWidth * kElement),
        y_(device, kRows * kWidth * kElement),
        workspace_(device, kGemmWorkspaceCuda) {
    std::vector<uint16_t> bits(size_t{1} << 20);
    for (size_t i = 0; i < bits.size(); ++i) {  // bf16 between 0.5 and 2, either sign
      const auto drawn = static_cast<uint32_t>(philox_uniform(7, i) * 65536);
      bits[i] = static_cast<uint16_t>(0x3f00u | (drawn & 0x80ffu));
    }
    const auto bytes = static_cast<int64_t>(bits.size()) * kElement;
    for (const Buffer* b : {&x_, &w_}) {
      for (int64_t at = 0; at < b->bytes(); at += bytes) device.copy_to_device(b->data() + at, bits.data(), bytes);
    }
  }
  void enqueue() const {
    LinearArgs args;
    args.x = make_tensor(x_.data(), DType::kBF16, {kRows, kWidth});
    args.weight = make_tensor(w_.data(), DType::kBF16, {kWidth, kWidth});
    args.y = make_tensor(y_.data(), DType::kBF16, {kRows, kWidth});
    args.rows = kRows;
    args.in = args.out = kWidth;
    for (int i = 0; i < 3; ++i) linear_cuda(args, workspace_.data(), device_.stream());
  }

 private:
  static constexpr int64_t kRows = 8192, kWidth = 4096, kElement = 2;
  Device& device_;
  Buffer x_, w_, y_, workspace_;
};

std::vector<double> time_in_step(CaseRun& run, double seconds, const std::vector<std::function<void()>>& launches) {
  constexpr double kLeast = 10, kMost = 40, kHeating = 1e-3;
  const Heater heater(run.device());
  StreamTimer timer(run.device());
  std::vector<double> medians;
  for (const auto& launch : launches) {
    std::vector<double> times = timer.measure(3, launch, [&] { heater.enqueue(); });
    const double runs = seconds / (times.back() + kHeating);
    times = timer.measure(static_cast<int>(std::clamp(runs, kLeast, kMost)), launch, [&] { heater.enqueue(); });
    medians.push_back(median(times));
  }
  return medians;
}

double copy_on_cuda() {
  constexpr int64_t kBytes = int64_t{1} << 30;
  const std::unique_ptr<Device> device = make_device(DeviceKind::kCuda);
  const Buffer source(*device, kBytes), target(*device, kBytes);
  device->fill_zero(source.data(), kBytes);
  const auto copy = [&] { device->copy_within(target.data(), source.data(), kBytes); };
  return 2.0 * static_cast<double>(kBytes) / time_on_cuda(*device, 0.05, copy);
}

#else

double time_on_cuda(Device&, double, const std::function<void()>&) {
  fail_check(__FILE__, __LINE__, "time_on_cuda", "this program was built without CUDA");
}
std::vector<double> time_in_step(CaseRun&, double, const std::vector<std::function<void()>>&) {
  fail_check(__FILE__, __LINE__, "time_in_step", "this program was built without CUDA");
}
double copy_on_cuda() {
  fail_check(__FILE__, __LINE__, "copy_on_cuda", "this program was built without CUDA");
}

#endif

double time_on_cpu(double seconds, const std::function<void()>& run) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> times;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  run();  // warm-up
  do {
    const auto begin = Clock::now();
    run();
    times.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
  } while ((Clock::now() < end && times.size() < 1000) || times.size() < 3);
  return median(times);
}

double time_on(Device& device, double seconds, const std::function<void()>& launch) {
  return device.kind() == DeviceKind::kCuda ? time_on_cuda(device, seconds, launch) : time_on_cpu(seconds, launch);
}

PhaseSpeed measure_phase(CaseRun& run, Phase phase, double seconds) {
  const double time = time_on(run.device(), seconds, [&] { run.launch(phase); });
  const Cost cost = run.plan().cost(phase);
  return {time, cost.bytes, cost.flops};
}

/// The case with nothing added to the operation and its gradient, and with its contents.
CaseRun run_for_speed(const OpCase& c, DType dtype, ThreadPool& pool, DeviceKind device, bool reuse) {
  constexpr int64_t kPeriod = int64_t{1} << 20;
  CaseRun run(c, {.compute = dtype, .reuse = reuse, .all_results = false, .probe = false, .device = device}, &pool);
  run.write(make_contents(c, dtype, kPeriod));
  return run;
}

}  // namespace

CaseSpeed measure_case(const OpCase& c, DType dtype, ThreadPool& pool, double seconds, DeviceKind device) {
  CaseRun run = run_for_speed(c, dtype, pool, device, true);
  CaseSpeed speed;
  speed.forward = measure_phase(run, Phase::kForward, seconds / 2);
  if (run.differentiated()) speed.backward = measure_phase(run, Phase::kBackward, seconds / 2);
  return speed;
}

std::vector<OperationSpeed> measure_operations(const OpCase& c, DType dtype, ThreadPool& pool, double seconds,
                                               DeviceKind device) {
  CaseRun run = run_for_speed(c, dtype, pool, device, false);
  std::vector<OperationSpeed> speeds;
  std::vector<std::function<void()>> launches;
  for (const Phase phase : {Phase::kForward, Phase::kBackward}) {
    if (phase == Phase::kBackward && !run.differentiated()) break;
    run.run(phase);  // so that operations taken alone find what they read; no memory is used twice
    for (const Executor::BoundOp& op : run.operations(phase)) {
      const OpKind& kind = *run.plan().program.op(op.id).kind;
      const OpShapes shapes = shapes_of(run.plan().program, run.plan().program.op(op.id));
      const Cost cost = kind.cost(shapes.context());
      if (cost.bytes <= 0) continue;  // the harness's own
      speeds.push_back({kind.speed_class(shapes.context()), cost, 0});
      launches.push_back([&run, &op, phase] { run.launch(phase, op); });
    }
  }
  const bool cuda = device == DeviceKind::kCuda;
  const std::vector<double> times = cuda ? time_in_step(run, seconds, launches) : std::vector<double>();
  for (size_t i = 0; i < speeds.size(); ++i) speeds[i].seconds = cuda ? times[i] : time_on_cpu(seconds, launches[i]);
  return speeds;
}

double measure_copy(ThreadPool& pool, DeviceKind device) {
  if (device == DeviceKind::kCuda) return copy_on_cuda();
  using Clock = std::chrono::steady_clock;
  constexpr size_t kBytes = size_t{128} << 20, kBlock = size_t{1} << 20;
  const std::vector<uint8_t> source(kBytes, 1);
  std::vector<uint8_t> target(kBytes, 2);
  double best = 1e30;
  for (int i = 0; i < 5; ++i) {
    const auto begin = Clock::now();
    pool.parallel_for(kBytes / kBlock, 1, [&](int64_t first, int64_t last) {
      std::memcpy(target.data() + static_cast<size_t>(first) * kBlock,
                  source.data() + static_cast<size_t>(first) * kBlock, static_cast<size_t>(last - first) * kBlock);
    });
    best = std::min(best, std::chrono::duration<double>(Clock::now() - begin).count());
  }
  return 2.0 * static_cast<double>(kBytes) / best;
}

double measure_launch(ThreadPool& pool, DeviceKind device) {
  OpCase c;
  c.name = "one element";
  c.make = [](DType) { return cast_kind(DType::kF32); };
  c.operands = {{.name = "x", .shape = {1}}};
  return measure_operations(c, DType::kBF16, pool, 0.02, device).at(0).seconds;
}

std::string describe_device(DeviceKind device) {
  return make_device(device)->description();
}

std::string why_unsupported(const OpCases& cases, DType dtype, DeviceKind device) {
  for (const OpCase& c : cases.cases) {
    if (c.speed) continue;
    try {
      CaseRun run(c, {.compute = dtype, .device = device});
      run.write(make_contents(c, dtype));
      run.run(Phase::kForward);
      if (run.differentiated()) run.run(Phase::kBackward);
      return "";
    } catch (const Error& error) {
      return error.what();
    }
  }
  return "there is no small case to try";
}

std::vector<std::string> implementations(const OpCases& cases, DType dtype) {
  std::vector<std::string> lines;
  for (const OpCase& c : cases.cases) {
    if (c.speed) continue;
    const CaseRun run(c, {.compute = dtype, .device = DeviceKind::kCuda});
    for (const std::string& decision : attention_decisions(run.plan().program)) {
      lines.push_back(str_cat(c.name, ": ", decision));
    }
  }
  return lines;
}

}  // namespace megatron
