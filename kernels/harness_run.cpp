#include "kernels/harness_run.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/philox.h"
#include "base/strings.h"
#include "kernels/common.h"
#include "program/passes.h"
#include "program/strided.h"
#include "program/trace.h"
#ifdef MEGATRON_HAVE_CUDA
#include "program/elementwise_cuda.h"
#endif

namespace megatron::harness {
namespace {

/// Memory that starts full of NaN (all bits set), so that a kernel that reads what it should write is found out.
class PoisonedDevice final : public Device {
 public:
  explicit PoisonedDevice(std::unique_ptr<Device> inner) : inner_(std::move(inner)) {}
  DeviceKind kind() const override { return inner_->kind(); }
  std::string description() const override { return inner_->description() + ", poisoned"; }
  int64_t free_bytes() const override { return inner_->free_bytes(); }
  void copy_to_device(void* target, const void* source, int64_t bytes) override {
    inner_->copy_to_device(target, source, bytes);
  }
  void copy_to_host(void* target, const void* source, int64_t bytes) override {
    inner_->copy_to_host(target, source, bytes);
  }
  void copy_within(void* target, const void* source, int64_t bytes, int stream) override {
    inner_->copy_within(target, source, bytes, stream);
  }
  void fill_zero(void* target, int64_t bytes) override { inner_->fill_zero(target, bytes); }
  void* stream(int index) const override { return inner_->stream(index); }
  bool asynchronous() const override { return inner_->asynchronous(); }
  void synchronize() override { inner_->synchronize(); }
  std::unique_ptr<Event> make_event(bool timing) override { return inner_->make_event(timing); }
  void record(Event& event, int stream) override { inner_->record(event, stream); }
  void wait(Event& event, int stream) override { inner_->wait(event, stream); }
  std::unique_ptr<Graph> capture(const std::function<void()>& enqueue) override { return inner_->capture(enqueue); }

 protected:
  std::byte* allocate(int64_t bytes) override {
    Buffer buffer(*inner_, bytes);
    std::byte* data = buffer.data();
    const std::vector<std::byte> poison(static_cast<size_t>(bytes), std::byte{0xff});
    inner_->copy_to_device(data, poison.data(), bytes);
    buffers_.emplace(data, std::move(buffer));
    return data;
  }
  void deallocate(std::byte* data) noexcept override { buffers_.erase(data); }

 private:
  std::unique_ptr<Device> inner_;
  std::map<std::byte*, Buffer> buffers_;
};

/// A copy whose gradient is a copy: behind it, a parameter is an activation.
class Tap final : public OpKind {
 public:
  std::string name() const override { return "tap"; }
  Signature signature(const Operands& operands) const override {
    const std::string all = letters_from('a', operands[0]->shape.rank());
    return {{all}, {{all, operands[0]->dtype}}, "", {{0}}, {}};
  }
  void backward(BackwardContext& context) const override {
    if (context.gradient(0)) context.set(0, context.trace().emit1(std::make_shared<Tap>(), {context.gradient(0)}));
  }
  void run_cpu(const RunContext& c) const override { copy_strided(c.in(0), c.out(0)); }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    copy_strided_cuda(c.in(0), c.out(0), c.stream);
  }
#endif
};

/// Operands result and cotangent; result sum of their products in fp64. Its gradient is the cotangent itself.
class Probe final : public OpKind {
 public:
  explicit Probe(bool active) : active_(active) {}
  std::string name() const override { return "probe"; }
  Signature signature(const Operands& operands) const override {
    const std::string all = letters_from('a', operands[0]->shape.rank());
    return {{all, all}, {{"", DType::kF64}}, "", {}, {}};
  }
  void backward(BackwardContext& context) const override { context.set(0, context.operand(1)); }
  Cost cost(const RunContext&) const override { return {}; }
  void run_cpu(const RunContext& c) const override {
    if (!active_) return;
    const std::vector<double> a = read_doubles(c.in(0)), b = read_doubles(c.in(1));
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    *c.out(0).as<double>() = sum;
  }
  /// Finite differences, which alone look at the sum, are taken on the CPU.
  void run_cuda(const RunContext&) const override {}

 private:
  bool active_;
};

/// Takes the place of an `accumulate` that nobody needs: the gradient is read, so it is made, but nothing runs.
class Read final : public OpKind {
 public:
  std::string name() const override { return "read"; }
  Signature signature(const Operands& operands) const override {
    const std::string all = letters_from('a', operands[0]->shape.rank());
    return {{all, all}, {}, "", {{0, 1}}, {}};
  }
  bool takes_strided(int i) const override { return i == 0; }
  std::vector<int> updates() const override { return {1}; }
  Cost cost(const RunContext&) const override { return {}; }
  void run_cpu(const RunContext&) const override {}
  void run_cuda(const RunContext&) const override {}
};

double round_to(DType dtype, double value) {
  if (!is_floating(dtype)) return value;
  return dispatch_floating("round", dtype, [&](auto type) {
    using T = decltype(type);
    return static_cast<double>(static_cast<Accumulator<T>>(T(static_cast<Accumulator<T>>(value))));
  });
}

double draw(const CaseOperand& operand, uint64_t key, int64_t i) {
  using Fill = CaseOperand::Fill;
  const int64_t inner = operand.shape.rank() == 0 ? 1 : operand.shape.back();
  switch (operand.fill) {
    case Fill::kConstant:
      return operand.shift;
    case Fill::kIndices:
      return std::floor(philox_uniform(key, static_cast<uint64_t>(i)) * static_cast<double>(operand.limit));
    case Fill::kRamp:
      return static_cast<double>(i / std::max<int64_t>(1, product(operand.shape, 1, operand.shape.rank())));
    case Fill::kZeroRows:
      if (i / inner % 3 == 2) return 0;
      [[fallthrough]];
    default:
      return operand.shift + operand.scale * philox_normal(key, static_cast<uint64_t>(i));
  }
}

/// Cotangents repeat after so many elements.
constexpr int64_t kCotangents = int64_t{1} << 20;

/// Multiples of 1/16 in [-4, 4]: exact in every type.
double draw_cotangent(uint64_t key, int64_t i) {
  return std::clamp(std::round(philox_normal(key, static_cast<uint64_t>(i)) * 16) / 16, -4.0, 4.0);
}

}  // namespace

DType dtype_of_operand(const CaseOperand& operand, DType compute) {
  using Type = CaseOperand::Type;
  switch (operand.type) {
    case Type::kCompute:
      return compute;
    case Type::kAccumulator:
    case Type::kMaster:
      return accumulation_dtype(compute);
    case Type::kInt32:
      return DType::kI32;
    case Type::kInt64:
      return DType::kI64;
    case Type::kFloat64:
      return DType::kF64;
    case Type::kFloat32:
      return DType::kF32;
  }
  fail_check(__FILE__, __LINE__, "type", "unknown operand type");
}

bool is_present(const CaseOperand& operand, DType compute) {
  if (operand.type == CaseOperand::Type::kMaster) return size_of(compute) < 4;
  return operand.fill != CaseOperand::Fill::kAbsent;
}

Contents make_contents(const OpCase& c, DType compute, int64_t period) {
  Contents contents;
  for (size_t i = 0; i < c.operands.size(); ++i) {
    const CaseOperand& operand = c.operands[i];
    contents.emplace_back();
    if (operand.type == CaseOperand::Type::kMaster) {  // the parameter, of which the reference has only one
      contents.back() = contents.front();
      continue;
    }
    if (!is_present(operand, compute)) continue;
    const uint64_t key = philox_key(1234, hash_name(str_cat(c.name, "/", i)));
    const DType dtype = dtype_of_operand(operand, compute);
    const bool random = operand.fill == CaseOperand::Fill::kNormal || operand.fill == CaseOperand::Fill::kIndices;
    std::vector<double>& values = contents.back();
    values.reserve(static_cast<size_t>(operand.shape.numel()));
    for (int64_t j = 0; j < operand.shape.numel(); ++j) {
      const bool repeated = random && j >= period;
      values.push_back(repeated ? values[static_cast<size_t>(j - period)] : round_to(dtype, draw(operand, key, j)));
    }
  }
  return contents;
}

bool has_gradient(const OpCase& c) {
  return c.fused_loss || !c.differentiable_results.empty();
}

std::set<int> differentiable_operands(const OpCase& c) {
  std::set<int> chosen(c.differentiable_operands.begin(), c.differentiable_operands.end());
  if (!chosen.empty()) return chosen;
  for (size_t i = 0; i < c.operands.size(); ++i) {
    const CaseOperand& operand = c.operands[i];
    if (operand.type == CaseOperand::Type::kCompute && operand.fill != CaseOperand::Fill::kAbsent && !operand.state) {
      chosen.insert(static_cast<int>(i));
    }
  }
  return chosen;
}

CaseRun::CaseRun(const OpCase& c, const RunOptions& options, ThreadPool* pool) : case_(c), compute_(options.compute) {
  Program program = build(c, options);
  verify(program);
  Plan plan = pack(std::move(program), {.slot_sets = 1, .reuse = options.reuse, .device = options.device});
  device_ = make_device(options.device);
  if (options.probe) device_ = std::make_unique<PoisonedDevice>(std::move(device_));
  store_ = std::make_unique<Store>(*device_);
  if (pool == nullptr) {
    own_pool_ = std::make_unique<ThreadPool>(options.threads);
    pool = own_pool_.get();
  }
  auto arena = std::make_shared<Buffer>(*device_, plan.arena_bytes());
  executor_ = std::make_unique<Executor>(std::move(plan), *store_, std::move(arena), Executor::Options{pool, {}});
}

Program CaseRun::build(const OpCase& c, const RunOptions& options) {
  Program program;
  program.name = c.name;
  Trace trace(program, true);
  differentiated_ = options.backward && has_gradient(c);
  const std::set<int> chosen = differentiated_ ? differentiable_operands(c) : std::set<int>{};
  std::vector<Value> operands;
  Value seed;
  for (size_t i = 0; i < c.operands.size(); ++i) {
    const CaseOperand& operand = c.operands[i];
    names_.push_back("");
    operands.emplace_back();
    if (!is_present(operand, compute_)) continue;
    names_.back() = str_cat(i, " ", operand.name);
    const DType dtype = dtype_of_operand(operand, compute_);
    if (chosen.contains(static_cast<int>(i))) {
      operands.back() = trace.parameter(names_.back(), dtype, operand.shape, trace.replicated(), Init::constant(0));
      if (options.taps) operands.back() = trace.emit1(std::make_shared<Tap>(), {operands.back()});
    } else if (operand.state) {
      operands.back() = trace.state(names_.back(), dtype, operand.shape, trace.replicated());
    } else {
      operands.back() = trace.input(names_.back(), dtype, operand.shape, trace.replicated());
    }
    if (c.fused_loss && operand.name == "seed") seed = operands.back();
  }
  const std::vector<Value> results = trace.emit(c.make(compute_), operands);
  for (size_t i = 0; i < results.size(); ++i) {
    const auto& read = c.differentiable_results;
    if (options.all_results || i == 0 || std::find(read.begin(), read.end(), static_cast<int>(i)) != read.end()) {
      trace.output(str_cat("result ", i), results[i]);
    }
  }
  if (has_gradient(c)) add_losses(trace, c, results, seed, options.probe);
  if (differentiated_) differentiate(program);
  if (!options.probe) {
    for (Op& op : program.ops) {
      if (op.kind->name() == "accumulate") op.kind = std::make_shared<Read>();
    }
  }
  return program;
}

void CaseRun::add_losses(Trace& trace, const OpCase& c, const std::vector<Value>& results, Value seed, bool active) {
  if (c.fused_loss) {
    MEGATRON_CHECK(seed, "case '" + c.name + "': a fused loss needs an operand called \"seed\"");
    trace.loss(results[0], seed);
    return;
  }
  const Value one = trace.input("probe seed", DType::kF64, {}, trace.replicated());
  for (const int r : c.differentiable_results) {
    const ValueInfo info = trace.info(results[static_cast<size_t>(r)]);
    const Value cotangent = trace.input(str_cat("cotangent ", r), info.dtype, info.shape, trace.replicated());
    const Value loss = trace.emit1(std::make_shared<Probe>(active), {results[static_cast<size_t>(r)], cotangent});
    losses_.push_back(str_cat("loss ", r));
    trace.output(losses_.back(), loss);
    trace.loss(loss, one);
  }
}

Tensor CaseRun::tensor_of(const std::string& name) const {
  return executor_->has_input(name) ? executor_->input(name) : store_->find(name);
}

void CaseRun::write_values(const std::string& name, const std::vector<double>& values) {
  Tensor target = tensor_of(name);
  std::vector<std::byte> bytes(static_cast<size_t>(std::max<int64_t>(1, target.bytes())));
  write_doubles(make_tensor(bytes.data(), target.dtype, target.shape), values);
  write_tensor(*device_, target, bytes.data(), target.bytes());
}

void CaseRun::write(const Contents& contents) {
  for (size_t i = 0; i < names_.size(); ++i) {
    if (!names_[i].empty()) write_values(names_[i], contents[i]);
  }
  if (executor_->has_input("probe seed")) write_values("probe seed", {1.0});
  for (const int r : case_.differentiable_results) {
    const std::string name = str_cat("cotangent ", r);
    if (!executor_->has_input(name)) continue;
    const uint64_t key = philox_key(99, hash_name(str_cat(case_.name, name)));
    std::vector<double> values;
    const int64_t count = executor_->input(name).numel();
    for (int64_t i = 0; i < count; ++i) {
      values.push_back(i >= kCotangents ? values[static_cast<size_t>(i - kCotangents)] : draw_cotangent(key, i));
    }
    write_values(name, values);
  }
}

Outcome CaseRun::outcome() const {
  Outcome outcome;
  const auto add = [&](const std::string& name, const Tensor& tensor) {
    HostTensor copy = to_host(*device_, tensor);
    if (!tensor) copy.tensor = tensor;  // an empty one, whose memory may be at address 0
    outcome.emplace(name, std::move(copy));
  };
  for (const NamedValue& output : plan().program.outputs) add(output.name, executor_->output(output.name));
  for (size_t i = 0; i < names_.size(); ++i) {
    if (names_[i].empty()) continue;
    if (case_.operands[i].state) add("state " + names_[i], tensor_of(names_[i]));
    const Tensor gradient = store_->find(gradient_name(names_[i]));
    if (gradient) add("gradient of " + names_[i], gradient);
  }
  return outcome;
}

double CaseRun::loss() const {
  double sum = 0;
  if (case_.fused_loss) {
    double seed = 1;
    for (size_t i = 0; i < names_.size(); ++i) {
      if (case_.operands[i].name == "seed") seed = read_doubles(to_host(*device_, tensor_of(names_[i])).tensor)[0];
    }
    return seed * read_doubles(to_host(*device_, executor_->output("result 0")).tensor)[0];
  }
  for (const std::string& name : losses_) sum += read_doubles(to_host(*device_, executor_->output(name)).tensor)[0];
  return sum;
}

std::unique_ptr<Device> make_device(DeviceKind kind) {
  if (kind == DeviceKind::kCpu) return make_cpu_device();
#ifdef MEGATRON_HAVE_CUDA
  return make_cuda_device(0);
#else
  throw DeviceError("this program was built without CUDA; build it with -DMEGATRON_CUDA=ON");
#endif
}

std::vector<double> read_doubles(const Tensor& t) {
  std::vector<double> values;
  values.reserve(static_cast<size_t>(t.numel()));
  const auto append = [&](const auto* data) {
    for_each_row(t.shape, t.strides, t.strides, [&](int64_t offset, int64_t, int64_t length) {
      for (int64_t i = 0; i < length; ++i) values.push_back(static_cast<double>(data[offset + i]));
    });
  };
  switch (t.dtype) {
    case DType::kI64:
      append(static_cast<const int64_t*>(t.data));
      break;
    case DType::kI32:
      append(static_cast<const int32_t*>(t.data));
      break;
    case DType::kU8:
      append(static_cast<const uint8_t*>(t.data));
      break;
    default:
      dispatch_floating("read", t.dtype, [&](auto type) { append(t.as<decltype(type)>()); });
  }
  return values;
}

void write_doubles(const Tensor& t, const std::vector<double>& values) {
  MEGATRON_CHECK(static_cast<int64_t>(values.size()) == t.numel(), "wrong number of values for " + to_string(t.shape));
  const auto copy = [&](auto* data) {
    for (size_t i = 0; i < values.size(); ++i) data[i] = static_cast<std::remove_pointer_t<decltype(data)>>(values[i]);
  };
  switch (t.dtype) {
    case DType::kI64:
      return copy(static_cast<int64_t*>(t.data));
    case DType::kI32:
      return copy(static_cast<int32_t*>(t.data));
    case DType::kU8:
      return copy(static_cast<uint8_t*>(t.data));
    default:
      dispatch_floating("write", t.dtype, [&](auto type) { copy(t.as<decltype(type)>()); });
  }
}

std::vector<uint8_t> read_bytes(const Tensor& t) {
  std::vector<uint8_t> bytes;
  const int64_t size = size_of(t.dtype);
  const auto* data = static_cast<const uint8_t*>(t.data);
  for_each_row(t.shape, t.strides, t.strides, [&](int64_t offset, int64_t, int64_t length) {
    bytes.insert(bytes.end(), data + offset * size, data + (offset + length) * size);
  });
  return bytes;
}

}  // namespace megatron::harness
