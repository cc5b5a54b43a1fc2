#include "kernels/gradient_norm/gradient_norm.h"

#include <algorithm>
#include <cmath>

#include "base/strings.h"
#include "kernels/common.h"

namespace megatron {
namespace {

class SumOfSquares final : public OpKind {
 public:
  std::string name() const override { return "sum_of_squares"; }
  Signature signature(const Operands& operands) const override {
    Signature signature;
    for (const ValueInfo* operand : operands) signature.operands.push_back(letters_from('a', operand->shape.rank()));
    signature.results = {{"", DType::kF64}};
    return signature;
  }
  /// Letters of different operands have nothing to do with each other, so the general rule does not apply.
  std::vector<ValueInfo> infer(const Operands& operands, const Mesh& mesh) const override {
    if (operands.empty()) throw PlacementError{"there are no gradients", "give at least one operand"};
    ValueInfo result;
    result.dtype = DType::kF64;
    result.placement.resize(mesh.axes.size());
    for (size_t axis = 0; axis < mesh.axes.size(); ++axis) {
      const bool sharded = operands[0]->placement[axis].cuts();
      for (size_t i = 0; i < operands.size(); ++i) {
        check_operand(*operands[i], i, axis, sharded, mesh.axes[axis].name);
      }
      if (sharded) result.placement[axis] = AxisPlacement::P();
    }
    return {result};
  }
  Cost cost(const RunContext& shapes) const override {
    const double bytes = touched_bytes(shapes);
    double count = 0;
    for (const Tensor& t : shapes.operands) count += static_cast<double>(t.numel());
    return {2 * count, bytes, 0};
  }
  int64_t workspace(const RunContext& shapes, DeviceKind device) const override {
#ifdef MEGATRON_HAVE_CUDA
    if (device == DeviceKind::kCuda) return sum_of_squares_workspace_cuda(shapes.operands);
#endif
    if (device != DeviceKind::kCpu) return 0;
    int64_t bytes = 0;
    for (const Tensor& t : shapes.operands) bytes = std::max(bytes, sum_of_squares_workspace_cpu(t.numel()));
    return bytes;
  }
  void run_cpu(const RunContext& context) const override {
    double sum = 0;
    for (const Tensor& t : context.operands) sum_of_squares_cpu(t, &sum, context.workspace, context.pool);
    *context.out(0).as<double>() = sum;
  }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    sum_of_squares_cuda(c.operands, c.out(0), c.workspace, c.stream);
  }
#endif

 private:
  static void check_operand(const ValueInfo& operand, size_t i, size_t axis, bool sharded, const std::string& name) {
    const AxisPlacement& placement = operand.placement[axis];
    if (placement.partial()) {
      throw PlacementError{str_cat("gradient ", i, " is partial over ", name), "all_reduce or reduce_scatter it first"};
    }
    if (placement.cuts() != sharded) {
      throw PlacementError{str_cat("gradient ", i, " is ", placement.cuts() ? "sharded" : "replicated", " over ", name,
                                   " but gradient 0 is ", sharded ? "sharded" : "replicated"),
                           "make one sum per set of sharded axes"};
    }
  }
};

class Clip final : public OpKind {
 public:
  Clip(double clip, bool halts) : clip_(clip), halts_(halts) {}
  std::string name() const override { return "clip"; }
  std::vector<int> updates() const override { return halts_ ? std::vector<int>{1} : std::vector<int>{}; }
  std::string attributes() const override { return str_cat("clip=", clip_); }
  Signature signature(const Operands& operands) const override {
    for (const ValueInfo* operand : operands) {
      MEGATRON_CHECK(operand->dtype == DType::kF64, "clip: operands must be fp64 scalars");
    }
    return {std::vector<std::string>(operands.size()),
            {{"", DType::kF64}, {"", DType::kF64}, {"", DType::kF64}},
            "",
            {},
            {}};
  }
  void run_cpu(const RunContext& context) const override {
    const double inverse_scale = *context.in(0).as<double>();
    double sum = 0;
    for (const Tensor& t : sums(context)) sum += *t.as<double>();
    const double norm = std::sqrt(sum) * inverse_scale;
    double* const halt = halts_ ? context.in(1).as<double>() : nullptr;
    const bool good = std::isfinite(norm) && (halt == nullptr || *halt == 0.0);
    if (halt != nullptr && !good) *halt = 1.0;
    const double factor = clip_ > 0 ? std::min(1.0, clip_ / (norm + 1e-6)) : 1.0;
    if (context.out(0)) *context.out(0).as<double>() = norm;
    if (context.out(1)) *context.out(1).as<double>() = good ? inverse_scale * factor : 0.0;
    if (context.out(2)) *context.out(2).as<double>() = good ? 0.0 : 1.0;
  }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    clip_cuda(c.in(0), sums(c), clip_, {c.out(0), c.out(1), c.out(2), halts_ ? c.in(1) : Tensor{}}, c.stream);
  }
#endif

 private:
  std::span<const Tensor> sums(const RunContext& c) const {
    return c.operands.subspan(halts_ ? 2 : 1);
  }

  double clip_;
  bool halts_;
};

}  // namespace

std::shared_ptr<const OpKind> sum_of_squares_kind() {
  return std::make_shared<SumOfSquares>();
}
std::shared_ptr<const OpKind> clip_kind(double clip, bool halts) {
  return std::make_shared<Clip>(clip, halts);
}

Value sum_of_squares(Trace& trace, const std::vector<Value>& gradients) {
  return trace.emit1(sum_of_squares_kind(), gradients);
}

ClipResult clip_gradients(Trace& trace, const std::vector<Value>& sums_of_squares, Value inverse_scale, double clip,
                          Value halt) {
  std::vector<Value> operands = {inverse_scale};
  if (halt) operands.push_back(halt);
  operands.insert(operands.end(), sums_of_squares.begin(), sums_of_squares.end());
  const std::vector<Value> results = trace.emit(clip_kind(clip, static_cast<bool>(halt)), operands);
  return {results[0], results[1], results[2]};
}

}  // namespace megatron
