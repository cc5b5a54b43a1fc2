#include "kernels/layernorm/layernorm.h"

#include "base/strings.h"
#include "kernels/common.h"
#include "kernels/rmsnorm/norm_cuda.h"
#include "kernels/rmsnorm/rmsnorm.h"

namespace megatron {
namespace {

std::string options_text(const NormOptions& options) {
  return str_cat("eps=", options.epsilon, options.zero_centered ? " zero_centered" : "");
}

/// Operands dy, x (the saved sum), gamma, rstd, mean, dsum (may be absent); results dx, dgamma, dbeta.
class LayerNormBackward final : public OpKind {
 public:
  explicit LayerNormBackward(const NormOptions& options) : options_(options) {}
  std::string name() const override { return "layernorm_backward"; }
  std::string attributes() const override { return options_text(options_); }

  Signature signature(const Operands& operands) const override {
    const ValueInfo& x = *operands[1];
    const std::string lead = letters_from('a', x.shape.rank() - 1), all = lead + "n";
    const DType sums = accumulation_dtype(x.dtype);
    return {{all, all, "n", lead, lead, operands[5] ? all : ""},
            {{all, x.dtype}, {"n", sums}, {"n", sums}},
            "n",
            {operands[5] ? std::vector<int>{0, 5} : std::vector<int>{0}},
            {}};
  }
  bool takes_strided(int i) const override { return i == 0 || i == 1 || i == 5; }
  bool gives_strided(int i) const override { return i == 0; }
  bool accumulates(int) const override { return true; }
  Cost cost(const RunContext& shapes) const override {
    return {12.0 * static_cast<double>(shapes.in(1).numel()), touched_bytes(shapes), 0};
  }
  int64_t workspace(const RunContext& shapes, DeviceKind device) const override {
    return device == DeviceKind::kCpu ? norm_gradient_workspace_cpu(shapes.in(1), 2)
                                      : norm_workspace_cuda(NormKind::kLayer, shapes.in(1), shapes.in(2).dtype);
  }
  void run_cpu(const RunContext& c) const override {
    layernorm_backward_cpu({c.in(0), c.in(1), c.in(2), c.in(3), c.in(4), c.in(5), c.out(0), c.out(1), c.out(2),
                            c.adds(0), c.adds(1), c.adds(2), options_},
                           c.workspace, c.pool);
  }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    norm_backward_cuda(NormKind::kLayer,
                       {c.in(0), c.in(1), c.in(2), c.in(3), c.in(4), c.in(5), c.out(0), c.out(1), c.out(2), c.adds(0),
                        c.adds(1), c.adds(2)},
                       options_, c.workspace, c.stream);
  }
#endif

 private:
  NormOptions options_;
};

class LayerNorm final : public OpKind {
 public:
  explicit LayerNorm(const NormOptions& options) : options_(options) {}
  std::string name() const override { return "layernorm"; }
  std::string attributes() const override { return options_text(options_); }

  Signature signature(const Operands& operands) const override {
    const ValueInfo& x = *operands[0];
    MEGATRON_CHECK(x.shape.rank() >= 1, "layernorm: x must have at least one dimension");
    MEGATRON_CHECK(operands[1]->dtype == operands[2]->dtype, "layernorm: gamma and beta must have one dtype");
    MEGATRON_CHECK(!operands[3] || operands[3]->dtype == x.dtype, "layernorm: x and residual must have one dtype");
    const std::string lead = letters_from('a', x.shape.rank() - 1), all = lead + "n";
    const DType sums = accumulation_dtype(x.dtype);
    return {{all, "n", "n", operands[3] ? all : ""},
            {{all, operands[1]->dtype}, {all, x.dtype}, {lead, sums}, {lead, sums}},
            "n",
            {},
            {}};
  }
  bool takes_strided(int i) const override { return i == 0 || i == 3; }

  void backward(BackwardContext& context) const override {
    const Value dy = context.gradient(0), dsum = context.gradient(1);
    const bool residual = static_cast<bool>(context.operand(3));
    Value dx = dsum;
    if (dy) {
      const Value saved = residual ? context.result(1) : context.operand(0);
      const std::vector<Value> results =
          context.trace().emit(std::make_shared<LayerNormBackward>(options_),
                               {dy, saved, context.operand(1), context.result(2), context.result(3), dsum});
      dx = results[0];
      context.set(1, results[1]);
      context.set(2, results[2]);
    }
    context.set(0, dx);
    context.set(3, dx);
  }

  Cost cost(const RunContext& shapes) const override {
    return {8.0 * static_cast<double>(shapes.in(0).numel()), touched_bytes(shapes), 0};
  }
  void run_cpu(const RunContext& c) const override {
    layernorm_cpu({c.in(0), c.in(1), c.in(2), c.in(3), c.out(0), c.out(1), c.out(2), c.out(3), options_}, c.pool);
  }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    norm_cuda(NormKind::kLayer, {c.in(0), c.in(1), c.in(2), c.in(3), c.out(0), c.out(1), c.out(2), c.out(3)}, options_,
              c.stream);
  }
#endif

 private:
  NormOptions options_;
};

}  // namespace

std::shared_ptr<const OpKind> layernorm_kind(const NormOptions& options) {
  return std::make_shared<LayerNorm>(options);
}

NormResult layernorm(Trace& trace, Value x, Value gamma, Value beta, const NormOptions& options, Value residual) {
  const std::vector<Value> results = trace.emit(layernorm_kind(options), {x, gamma, beta, residual});
  return {results[0], residual ? results[1] : x};
}

}  // namespace megatron
