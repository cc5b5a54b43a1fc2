#include "kernels/rmsnorm/rmsnorm.h"

#include "base/strings.h"
#include "kernels/common.h"
#include "kernels/rmsnorm/norm_cuda.h"
#include "kernels/rmsnorm/norm_plan_cuda.h"

namespace megatron {
namespace {

std::string options_text(const NormOptions& options) {
  return str_cat("eps=", options.epsilon, options.zero_centered ? " zero_centered" : "");
}

/// Operands dy, x (the saved sum), gamma, rstd, dsum (may be absent); results dx, dgamma.
class RmsNormBackward final : public OpKind {
 public:
  explicit RmsNormBackward(const NormOptions& options) : options_(options) {}
  std::string name() const override { return "rmsnorm_backward"; }
  std::string attributes() const override { return options_text(options_); }

  Signature signature(const Operands& operands) const override {
    const ValueInfo& x = *operands[1];
    const std::string lead = letters_from('a', x.shape.rank() - 1), all = lead + "n";
    Signature signature{{all, all, "n", lead, operands[4] ? all : ""},
                        {{all, x.dtype}, {"n", accumulation_dtype(x.dtype)}},
                        "n",
                        {operands[4] ? std::vector<int>{0, 4} : std::vector<int>{0}},
                        {}};
    return signature;
  }
  bool takes_strided(int i) const override { return i == 0 || i == 1 || i == 4; }
  bool gives_strided(int i) const override { return i == 0; }
  bool accumulates(int) const override { return true; }
  Cost cost(const RunContext& shapes) const override {
    return {9.0 * static_cast<double>(shapes.in(1).numel()), touched_bytes(shapes), 0};
  }
  int64_t workspace(const RunContext& shapes, DeviceKind device) const override {
    return device == DeviceKind::kCpu ? norm_gradient_workspace_cpu(shapes.in(1), 1)
                                      : norm_workspace_cuda(NormKind::kRms, shapes.in(1), shapes.in(2).dtype);
  }
  void run_cpu(const RunContext& c) const override {
    rmsnorm_backward_cpu(
        {c.in(0), c.in(1), c.in(2), c.in(3), c.in(4), c.out(0), c.out(1), c.adds(0), c.adds(1), options_}, c.workspace,
        c.pool);
  }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    norm_backward_cuda(NormKind::kRms,
                       {.dy = c.in(0),
                        .x = c.in(1),
                        .gamma = c.in(2),
                        .rstd = c.in(3),
                        .dsum = c.in(4),
                        .dx = c.out(0),
                        .dgamma = c.out(1),
                        .add_dx = c.adds(0),
                        .add_dgamma = c.adds(1)},
                       options_, c.workspace, c.stream);
  }
#endif

 private:
  NormOptions options_;
};

class RmsNorm final : public OpKind {
 public:
  explicit RmsNorm(const NormOptions& options) : options_(options) {}
  std::string name() const override { return "rmsnorm"; }
  std::string attributes() const override { return options_text(options_); }

  Signature signature(const Operands& operands) const override {
    const ValueInfo& x = *operands[0];
    MEGATRON_CHECK(x.shape.rank() >= 1, "rmsnorm: x must have at least one dimension");
    MEGATRON_CHECK(!operands[2] || operands[2]->dtype == x.dtype, "rmsnorm: x and residual must have one dtype");
    const std::string lead = letters_from('a', x.shape.rank() - 1), all = lead + "n";
    return {{all, "n", operands[2] ? all : ""},
            {{all, operands[1]->dtype}, {all, x.dtype}, {lead, accumulation_dtype(x.dtype)}},
            "n",
            {},
            {}};
  }
  bool takes_strided(int i) const override { return i == 0 || i == 2; }

  void backward(BackwardContext& context) const override {
    const Value dy = context.gradient(0), dsum = context.gradient(1);
    const bool residual = static_cast<bool>(context.operand(2));
    Value dx = dsum;
    if (dy) {
      const Value saved = residual ? context.result(1) : context.operand(0);
      const std::vector<Value> results = context.trace().emit(std::make_shared<RmsNormBackward>(options_),
                                                              {dy, saved, context.operand(1), context.result(2), dsum});
      dx = results[0];
      context.set(1, results[1]);
    }
    context.set(0, dx);
    context.set(2, dx);
  }

  Cost cost(const RunContext& shapes) const override {
    return {5.0 * static_cast<double>(shapes.in(0).numel()), touched_bytes(shapes), 0};
  }
  void run_cpu(const RunContext& c) const override {
    rmsnorm_cpu({c.in(0), c.in(1), c.in(2), c.out(0), c.out(1), c.out(2), options_}, c.pool);
  }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    norm_cuda(NormKind::kRms,
              {.x = c.in(0), .gamma = c.in(1), .residual = c.in(2), .y = c.out(0), .sum = c.out(1), .rstd = c.out(2)},
              options_, c.stream);
  }
#endif

 private:
  NormOptions options_;
};

}  // namespace

int64_t norm_workspace_cuda(NormKind kind, const Tensor& x, DType gamma) {
  const int64_t n = x.shape.back(), rows = product(x.shape, 0, x.shape.rank() - 1);
  const int64_t pack = norm::pack_elements(size_of(x.dtype), size_of(gamma));
  const norm::RowCut cut = norm::backward_cut(div_ceil(n, pack));
  const int64_t groups = norm::backward_blocks(rows, cut) * cut.rows;
  return groups * n * (kind == NormKind::kLayer ? 2 : 1) * size_of(accumulation_dtype(x.dtype));
}

std::shared_ptr<const OpKind> rmsnorm_kind(const NormOptions& options) {
  return std::make_shared<RmsNorm>(options);
}

NormResult rmsnorm(Trace& trace, Value x, Value gamma, const NormOptions& options, Value residual) {
  const std::vector<Value> results = trace.emit(rmsnorm_kind(options), {x, gamma, residual});
  return {results[0], residual ? results[1] : x};
}

}  // namespace megatron
