#include "train/compare_devices.h"

#include <cmath>
#include <cstring>
#include <map>

#include "base/check.h"
#include "base/strings.h"
#include "kernels/harness.h"
#include "program/passes.h"
#include "program/strided.h"
#include "tensor/host_copy.h"

namespace megatron {
namespace {

struct Sums {
  double difference = 0, reference = 0, largest = -1;
  int64_t index = 0;
  double a = 0, b = 0;
};

/// Differences of two host tensors of one shape and type.
Sums difference_of(const Tensor& x, const Tensor& y) {
  Sums sums;
  int64_t seen = 0;
  dispatch_floating("compare", x.dtype, [&](auto tag) {
    using T = decltype(tag);
    for_each_row(x.shape, x.strides, y.strides, [&](int64_t i, int64_t j, int64_t length) {
      for (int64_t k = 0; k < length; ++k, ++seen) {
        const double a = static_cast<double>(x.as<T>()[i + k]), b = static_cast<double>(y.as<T>()[j + k]);
        const double d = std::isfinite(a) == std::isfinite(b) && (a == b || !std::isfinite(a)) ? 0.0 : std::abs(a - b);
        if (std::isfinite(b)) sums.reference += b * b;
        sums.difference += d * d;
        if (d <= sums.largest && !std::isnan(d)) continue;
        sums.largest = d;
        sums.index = seen;
        sums.a = a;
        sums.b = b;
      }
    });
  });
  return sums;
}

class Comparison {
 public:
  Comparison(Executor& tested, Executor& reference) : tested_(tested), reference_(reference) {}

  DeviceComparison run() {
    for (int phase = 0; phase < kPhases; ++phase) {
      for (const Executor::BoundOp& op : reference_.bound(static_cast<Phase>(phase))) partners_[op.id] = &op;
    }
    tested_.set_observer({[&](Phase, const Executor::BoundOp& op) { prepare(op); },
                          [&](Phase phase, const Executor::BoundOp& op) { look(phase, op); }});
    for (int phase = 0; phase < kPhases; ++phase) tested_.run(static_cast<Phase>(phase));
    tested_.set_observer({});
    return outcome_;
  }

 private:
  const Executor::BoundOp& partner(const Executor::BoundOp& op) const {
    const auto found = partners_.find(op.id);
    MEGATRON_CHECK(found != partners_.end(), "two plans of one program bind different operations");
    return *found->second;
  }

  /// What the operation is about to read, sums that it adds to included, becomes what its partner reads.
  void prepare(const Executor::BoundOp& op) {
    const Executor::BoundOp& other = partner(op);
    for (size_t i = 0; i < op.operands.size(); ++i) take_over(op.operands[i], other.operands[i]);
    for (size_t i = 0; i < op.results.size(); ++i) {
      if (op.accumulate[i]) take_over(op.results[i], other.results[i]);
    }
    for (size_t i = 0; i < op.copies.size(); ++i) take_over(op.copies[i].first, other.copies[i].first);
  }

  void take_over(const Tensor& from, const Tensor& to) {
    if (!from || !to) return;
    const HostTensor host = to_host(tested_.device(), from);
    copy_strided(host.tensor, to);
  }

  void look(Phase phase, const Executor::BoundOp& op) {
    const Executor::BoundOp& other = partner(op);
    reference_.run_op(phase, other);
    ++outcome_.operations;
    const Op& info = tested_.plan().program.op(op.id);
    const double tolerance = tolerance_for(op);
    for (size_t i = 0; i < op.results.size(); ++i)
      compare(phase, info, info.results[i], op.results[i], other.results[i], tolerance);
    for (int i : info.kind->updates()) {
      const auto at = static_cast<size_t>(i);
      compare(phase, info, info.operands[at], op.operands[at], other.operands[at], tolerance);
    }
  }

  static double tolerance_for(const Executor::BoundOp& op) {
    double widest = 0;
    for (const auto* tensors : {&op.operands, &op.results}) {
      for (const Tensor& t : *tensors) {
        if (t && is_floating(t.dtype)) widest = std::max(widest, tolerance_of(t.dtype));
      }
    }
    return widest;
  }

  void compare(Phase phase, const Op& op, ValueId id, const Tensor& result, const Tensor& expected, double tolerance) {
    if (!result || !expected || !is_floating(result.dtype) || result.numel() == 0) return;
    ++outcome_.values;
    const HostTensor host = to_host(tested_.device(), result);
    const Sums sums = difference_of(host.tensor, expected);
    OpDifference d{name_of(phase), op.scope, op.kind->name(), tested_.plan().program.label(id), 0, tolerance,
                   sums.index,     sums.a,   sums.b};
    d.error = sums.difference == 0 ? 0 : sums.difference / sums.reference;
    if (!(d.error / tolerance <= outcome_.nearest.error / std::max(outcome_.nearest.tolerance, 1e-300)))
      outcome_.nearest = d;
    if (!outcome_.first && !(d.error <= tolerance)) outcome_.first = d;
  }

  Executor& tested_;
  Executor& reference_;
  std::map<OpId, const Executor::BoundOp*> partners_;
  DeviceComparison outcome_;
};

}  // namespace

std::string OpDifference::text() const {
  return str_cat("operation ", op, " in ", scope.empty() ? "the program" : scope, ", phase ", phase, ", value ", value,
                 ": normalised mean squared error ", error, " (tolerance ", tolerance, "); element ", index, " is ",
                 result, " instead of ", reference);
}

DeviceComparison compare_executors(Executor& tested, Executor& reference) {
  return Comparison(tested, reference).run();
}

DeviceComparison compare_with_cpu(TrainEngine& engine, const Config& config, const Batch& batch) {
  const Program program = make_loss_program(config, engine.programs().spec, ParallelContext(), true);
  const auto plan = [&](DeviceKind device) {
    PackOptions options;
    options.reuse = false;
    options.device = device;
    return pack(program, options);
  };
  Plan tested_plan = plan(engine.device().kind()), reference_plan = plan(DeviceKind::kCpu);
  const auto cpu = make_cpu_device();
  Store store(*cpu);
  Executor::Options options;
  options.pool = &engine.pool();
  auto tested_arena = std::make_shared<Buffer>(engine.device(), tested_plan.arena_bytes());
  auto reference_arena = std::make_shared<Buffer>(*cpu, reference_plan.arena_bytes());
  std::memset(static_cast<void*>(reference_arena->data()), 0, static_cast<size_t>(reference_arena->bytes()));
  Executor tested(std::move(tested_plan), engine.store(), tested_arena, options);
  Executor reference(std::move(reference_plan), store, reference_arena, options);
  engine.begin_step();
  TrainEngine::write_batch(tested, batch, 1.0 / std::max(1.0, batch.loss_weight_sum), 1);
  return compare_executors(tested, reference);
}

}  // namespace megatron
