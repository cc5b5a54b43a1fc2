#include "kernels/linear/linear.h"

#include <algorithm>

#include "base/error.h"
#include "kernels/common.h"
#include "kernels/linear/gemm_cuda.h"

namespace megatron {
namespace {

// Letters of the index notation: leading dimensions from 'a', contracted ones from 'i', output ones from 'n'.
constexpr char kLead = 'a', kContract = 'i', kOut = 'n';

std::string dims_text(const LinearOptions& options) {
  return "out_dims=" + std::to_string(options.out_dims) + " contract_dims=" + std::to_string(options.contract_dims);
}

void check_types(const char* kind, const Operands& operands) {
  for (const ValueInfo* operand : operands) {
    MEGATRON_CHECK(!operand || operand->dtype == operands[0]->dtype,
                   std::string(kind) + ": operands must have one dtype, got " +
                       std::string(name_of(operands[0]->dtype)) + " and " + std::string(name_of(operand->dtype)));
  }
}

/// Number of leading dimensions of an operand with `inner` inner ones.
int lead_rank(const char* kind, const ValueInfo& operand, int inner) {
  const int lead = operand.shape.rank() - inner;
  MEGATRON_CHECK(lead >= 0, std::string(kind) + ": operand " + to_string(operand.shape) + " has fewer than " +
                                std::to_string(inner) + " dimensions");
  return lead;
}

Cost product_cost(const RunContext& shapes, int64_t rows, int64_t in, int64_t out) {
  return {2.0 * static_cast<double>(rows) * static_cast<double>(in) * static_cast<double>(out), touched_bytes(shapes),
          0};
}

class BiasGradient final : public OpKind {
 public:
  explicit BiasGradient(int out_dims) : out_dims_(out_dims) {}
  std::string name() const override { return "bias_grad"; }
  Signature signature(const Operands& operands) const override {
    const std::string out = letters_from(kOut, out_dims_);
    const std::string lead = letters_from(kLead, lead_rank("bias_grad", *operands[0], out_dims_));
    return {{lead + out}, {{out, accumulation_dtype(operands[0]->dtype)}}, "", {{0}}, {}};
  }
  bool accumulates(int) const override { return true; }
  bool is_weight_gradient() const override { return true; }
  Cost cost(const RunContext& shapes) const override {
    return {static_cast<double>(shapes.in(0).numel()), touched_bytes(shapes), 0};
  }
  int64_t workspace(const RunContext& shapes, DeviceKind device) const override {
    const BiasGradientArgs args = arguments(shapes);
    return device == DeviceKind::kCpu ? bias_gradient_workspace_cpu(args.dy.dtype, args.rows, args.out)
                                      : bias_gradient_workspace_cuda(args.dy.dtype, args.rows, args.out);
  }
  void run_cpu(const RunContext& context) const override {
    BiasGradientArgs args = arguments(context);
    args.add = context.adds(0);
    bias_gradient_cpu(args, context.workspace, context.pool);
  }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& context) const override {
    BiasGradientArgs args = arguments(context);
    args.add = context.adds(0);
    bias_gradient_cuda(args, context.workspace, context.stream);
  }
#endif

 private:
  BiasGradientArgs arguments(const RunContext& context) const {
    const Tensor& dy = context.in(0);
    const int lead = dy.shape.rank() - out_dims_;
    return {dy, context.out(0), product(dy.shape, 0, lead), product(dy.shape, lead, dy.shape.rank()), false};
  }
  int out_dims_;
};

/// Operands dy [lead..., n...], w [n..., k...]; result dx [lead..., k...].
class LinearDataGradient final : public OpKind {
 public:
  explicit LinearDataGradient(const LinearOptions& options) : options_(options) {}
  std::string name() const override { return "linear_dgrad"; }
  std::string attributes() const override { return dims_text(options_); }
  Signature signature(const Operands& operands) const override {
    check_types("linear_dgrad", operands);
    const std::string out = letters_from(kOut, options_.out_dims), in = letters_from(kContract, options_.contract_dims);
    const std::string lead = letters_from(kLead, lead_rank("linear_dgrad", *operands[0], options_.out_dims));
    return {{lead + out, out + in}, {{lead + in, operands[0]->dtype}}, "", {{0}, {1}}, {}};
  }
  bool accumulates(int) const override { return true; }
  Cost cost(const RunContext& shapes) const override {
    const LinearDataGradientArgs args = arguments(shapes);
    return product_cost(shapes, args.rows, args.in, args.out);
  }
  int64_t workspace(const RunContext& shapes, DeviceKind device) const override {
    const LinearDataGradientArgs args = arguments(shapes);
    return device == DeviceKind::kCpu ? linear_workspace_cpu(args.dy.dtype, args.rows, args.in, args.out)
                                      : kGemmWorkspaceCuda;
  }
  void run_cpu(const RunContext& context) const override {
    LinearDataGradientArgs args = arguments(context);
    args.add = context.adds(0);
    linear_data_gradient_cpu(args, context.workspace, context.pool);
  }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& context) const override {
    LinearDataGradientArgs args = arguments(context);
    args.add = context.adds(0);
    linear_data_gradient_cuda(args, context.workspace, context.stream);
  }
#endif

 private:
  LinearDataGradientArgs arguments(const RunContext& context) const {
    const Tensor &dy = context.in(0), &w = context.in(1);
    return {dy,
            w,
            context.out(0),
            product(dy.shape, 0, dy.shape.rank() - options_.out_dims),
            product(w.shape, options_.out_dims, w.shape.rank()),
            product(w.shape, 0, options_.out_dims),
            false};
  }
  LinearOptions options_;
};

/// Operands dy [lead..., n...], x [lead..., k...]; result dW [n..., k...] in fp32 (fp64).
class LinearWeightGradient final : public OpKind {
 public:
  explicit LinearWeightGradient(const LinearOptions& options) : options_(options) {}
  std::string name() const override { return "linear_wgrad"; }
  std::string attributes() const override { return dims_text(options_); }
  Signature signature(const Operands& operands) const override {
    check_types("linear_wgrad", operands);
    const std::string out = letters_from(kOut, options_.out_dims), in = letters_from(kContract, options_.contract_dims);
    const std::string lead = letters_from(kLead, lead_rank("linear_wgrad", *operands[0], options_.out_dims));
    return {{lead + out, lead + in}, {{out + in, accumulation_dtype(operands[0]->dtype)}}, "", {{0}, {1}}, {}};
  }
  bool accumulates(int) const override { return true; }
  bool is_weight_gradient() const override { return true; }
  Cost cost(const RunContext& shapes) const override {
    const LinearWeightGradientArgs args = arguments(shapes);
    return product_cost(shapes, args.rows, args.in, args.out);
  }
  int64_t workspace(const RunContext& shapes, DeviceKind device) const override {
    const LinearWeightGradientArgs args = arguments(shapes);
    return device == DeviceKind::kCpu ? weight_gradient_workspace_cpu(args.dy.dtype, args.rows, args.in, args.out)
                                      : kGemmWorkspaceCuda;
  }
  void run_cpu(const RunContext& context) const override {
    LinearWeightGradientArgs args = arguments(context);
    args.add = context.adds(0);
    linear_weight_gradient_cpu(args, context.workspace, context.pool);
  }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& context) const override {
    LinearWeightGradientArgs args = arguments(context);
    args.add = context.adds(0);
    linear_weight_gradient_cuda(args, context.workspace, context.stream);
  }
#endif

 private:
  LinearWeightGradientArgs arguments(const RunContext& context) const {
    const Tensor &dy = context.in(0), &x = context.in(1);
    const int lead = dy.shape.rank() - options_.out_dims;
    return {dy,
            x,
            context.out(0),
            product(dy.shape, 0, lead),
            product(x.shape, lead, x.shape.rank()),
            product(dy.shape, lead, dy.shape.rank()),
            false};
  }
  LinearOptions options_;
};

class Linear final : public OpKind {
 public:
  explicit Linear(const LinearOptions& options) : options_(options) {}
  std::string name() const override { return "linear"; }
  std::string attributes() const override { return dims_text(options_); }

  Signature signature(const Operands& operands) const override {
    check_types("linear", operands);
    MEGATRON_CHECK(operands[1]->shape.rank() == options_.out_dims + options_.contract_dims,
                   "linear: weight " + to_string(operands[1]->shape) + " does not have " + dims_text(options_));
    const std::string out = letters_from(kOut, options_.out_dims), in = letters_from(kContract, options_.contract_dims);
    const std::string lead = letters_from(kLead, lead_rank("linear", *operands[0], options_.contract_dims));
    const bool bias = operands[2] != nullptr;
    Signature signature{{lead + in, out + in, bias ? out : ""}, {{lead + out, operands[0]->dtype}}, "", {}, {}};
    if (bias) {
      signature.whole = in;
      signature.linear = {{0, 2}, {1, 2}};
    } else {
      signature.linear = {{0}, {1}};
    }
    return signature;
  }

  void backward(BackwardContext& context) const override {
    const Value dy = context.gradient(0);
    if (!dy) return;
    Trace& trace = context.trace();
    if (context.wants(0)) {
      context.set(0, trace.emit1(std::make_shared<LinearDataGradient>(options_), {dy, context.operand(1)}));
    }
    if (context.wants(1)) {
      context.set(1, trace.emit1(std::make_shared<LinearWeightGradient>(options_), {dy, context.operand(0)}));
    }
    if (context.operand(2) && context.wants(2)) context.set(2, bias_gradient(trace, dy, options_.out_dims));
  }

  Cost cost(const RunContext& shapes) const override {
    const LinearArgs args = arguments(shapes);
    return product_cost(shapes, args.rows, args.in, args.out);
  }
  int64_t workspace(const RunContext& shapes, DeviceKind device) const override {
    const LinearArgs args = arguments(shapes);
    return device == DeviceKind::kCpu ? linear_workspace_cpu(args.x.dtype, args.rows, args.in, args.out)
                                      : kGemmWorkspaceCuda;
  }
  void run_cpu(const RunContext& context) const override {
    linear_cpu(arguments(context), context.workspace, context.pool);
  }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& context) const override {
    linear_cuda(arguments(context), context.workspace, context.stream);
  }
#endif

 private:
  LinearArgs arguments(const RunContext& context) const {
    const Tensor &x = context.in(0), &w = context.in(1);
    return {x,
            w,
            context.in(2),
            context.out(0),
            product(x.shape, 0, x.shape.rank() - options_.contract_dims),
            product(w.shape, options_.out_dims, w.shape.rank()),
            product(w.shape, 0, options_.out_dims)};
  }
  LinearOptions options_;
};

}  // namespace

void fail_gemm(const std::string& message) {
  throw DeviceError(message);
}

// Here and not in the .cu file, so that plans for GPUs can be made by a build without CUDA.
int64_t bias_gradient_rows_cuda(int64_t rows) {
  constexpr int64_t kLeast = 64, kMostBlocks = 64;
  return std::max(kLeast, div_ceil(rows, kMostBlocks));
}
int64_t bias_gradient_workspace_cuda(DType dtype, int64_t rows, int64_t out) {
  return div_ceil(rows, bias_gradient_rows_cuda(rows)) * out * size_of(accumulation_dtype(dtype));
}

std::shared_ptr<const OpKind> linear_kind(const LinearOptions& options) {
  return std::make_shared<Linear>(options);
}
std::shared_ptr<const OpKind> bias_gradient_kind(int out_dims) {
  return std::make_shared<BiasGradient>(out_dims);
}

Value linear(Trace& trace, Value x, Value w, Value bias, const LinearOptions& options) {
  return trace.emit1(linear_kind(options), {x, w, bias});
}

Value bias_gradient(Trace& trace, Value dy, int out_dims) {
  return trace.emit1(bias_gradient_kind(out_dims), {dy});
}

}  // namespace megatron
