#include "kernels/dropout/dropout.h"

#include "base/strings.h"
#include "kernels/cast/cast.h"
#include "kernels/common.h"
#include "kernels/linear/linear.h"

namespace megatron {
namespace {

std::string options_text(const DropoutOptions& options) {
  return options.p == 0 ? "p=0" : str_cat("p=", options.p, " name=", options.name);
}

void check_options(const DropoutOptions& options, const Operands& operands, size_t step) {
  MEGATRON_CHECK(options.p >= 0 && options.p < 1, str_cat("dropout: p = ", options.p, " must be in [0, 1)"));
  MEGATRON_CHECK(operands[0]->shape.rank() >= 3,
                 "dropout: x must be [..., b, c], got " + to_string(operands[0]->shape));
  if (options.p == 0) return;
  MEGATRON_CHECK(operands[step] && operands[step + 1] && operands[step + 2],
                 "dropout: p > 0 needs the operands step, sample and position");
  MEGATRON_CHECK(operands[step]->dtype == DType::kI64 && operands[step + 1]->dtype == DType::kI64 &&
                     operands[step + 2]->dtype == DType::kI32,
                 "dropout: step and sample must be int64, position int32");
}

/// Letters of the positions [..., b] that go with x [..., b, c].
std::string token_letters(const Operands& operands) {
  return letters_from('p', operands[0]->shape.rank() - 2) + "b";
}

/// Letters of step, sample and position.
void append_random(Signature& signature, const Operands& operands, size_t step) {
  signature.operands.push_back("");
  signature.operands.push_back(operands[step + 1] ? "b" : "");
  signature.operands.push_back(operands[step + 2] ? token_letters(operands) : "");
}

/// [..., b, c] as the kernels see it: [s, b, c].
Tensor by_tokens(const Tensor& x) {
  if (!x) return x;
  const int64_t b = x.shape[x.shape.rank() - 2], c = x.shape.back();
  return make_tensor(x.data, x.dtype, {b * c == 0 ? 0 : x.numel() / (b * c), b, c});
}

class Dropout final : public OpKind {
 public:
  Dropout(const DropoutOptions& options, std::optional<DType> out) : options_(options), out_(out) {}
  std::string name() const override { return "dropout"; }
  std::string attributes() const override { return options_text(options_); }
  Signature signature(const Operands& operands) const override {
    check_options(options_, operands, 1);
    const std::string all = token_letters(operands) + "c";
    Signature signature{{all}, {{all, out_.value_or(operands[0]->dtype)}}, "", {{0}}, {}};
    append_random(signature, operands, 1);
    return signature;
  }
  int overwrites(int) const override { return out_ ? kNone : 0; }
  void backward(BackwardContext& context) const override {
    const Value dy = context.gradient(0);
    if (!dy || !context.wants(0)) return;
    Trace& trace = context.trace();
    context.set(0, trace.emit1(std::make_shared<Dropout>(options_, narrow_to(trace, dy, context.operand(0))),
                               {dy, context.operand(1), context.operand(2), context.operand(3)}));
  }
  void run_cpu(const RunContext& c) const override { dropout_cpu(args(c), c.pool); }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    dropout_cuda(args(c), c.stream);
  }
#endif

  /// Output type of the backward: that of the operand, if it differs from the gradient's.
  static std::optional<DType> narrow_to(const Trace& trace, Value dy, Value x) {
    return trace.dtype(dy) == trace.dtype(x) ? std::nullopt : std::optional<DType>(trace.dtype(x));
  }

 private:
  DropoutArgs args(const RunContext& c) const {
    return {by_tokens(c.in(0)),    {},      {}, by_tokens(c.out(0)), c.in(1), c.in(2), c.in(3),
            c.in_origin(0).back(), options_};
  }
  DropoutOptions options_;
  std::optional<DType> out_;
};

class DropoutAdd final : public OpKind {
 public:
  explicit DropoutAdd(const DropoutOptions& options) : options_(options) {}
  std::string name() const override { return "dropout_add"; }
  std::string attributes() const override { return options_text(options_); }
  Signature signature(const Operands& operands) const override {
    check_options(options_, operands, 3);
    MEGATRON_CHECK(!operands[1] || operands[1]->dtype == operands[0]->dtype, "dropout_add: bias must have x's dtype");
    const std::string all = token_letters(operands) + "c";
    Signature signature{{all, operands[1] ? "c" : "", all}, {{all, operands[2]->dtype}}, "", {}, {}};
    signature.linear = {operands[1] ? std::vector<int>{0, 1, 2} : std::vector<int>{0, 2}};
    append_random(signature, operands, 3);
    return signature;
  }
  int overwrites(int) const override { return 2; }

  void backward(BackwardContext& context) const override {
    const Value dy = context.gradient(0);
    if (!dy) return;
    context.set(2, dy);
    const bool bias = context.operand(1) && context.wants(1);
    if (!context.wants(0) && !bias) return;
    Trace& trace = context.trace();
    const Value dx = options_.p == 0
                         ? cast(trace, dy, trace.dtype(context.operand(0)))
                         : trace.emit1(dropout_kind(options_, Dropout::narrow_to(trace, dy, context.operand(0))),
                                       {dy, context.operand(3), context.operand(4), context.operand(5)});
    if (context.wants(0)) context.set(0, dx);
    if (bias) context.set(1, bias_gradient(trace, dx, 1));
  }

  Cost cost(const RunContext& shapes) const override {
    return {3.0 * static_cast<double>(shapes.in(0).numel()), touched_bytes(shapes), 0};
  }
  void run_cpu(const RunContext& c) const override { dropout_cpu(args(c), c.pool); }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    dropout_cuda(args(c), c.stream);
  }
#endif

 private:
  DropoutArgs args(const RunContext& c) const {
    return {by_tokens(c.in(0)),    c.in(1), by_tokens(c.in(2)), by_tokens(c.out(0)), c.in(3), c.in(4), c.in(5),
            c.in_origin(0).back(), options_};
  }
  DropoutOptions options_;
};

DropoutOptions options_of(const DropoutKey& key) {
  return {key.p, key.seed, key.name};
}

}  // namespace

std::shared_ptr<const OpKind> dropout_kind(const DropoutOptions& options, std::optional<DType> out) {
  return std::make_shared<Dropout>(options, out);
}
std::shared_ptr<const OpKind> dropout_add_kind(const DropoutOptions& options) {
  return std::make_shared<DropoutAdd>(options);
}

Value dropout(Trace& trace, Value x, const DropoutKey& key) {
  if (key.p == 0) return x;
  return trace.emit1(dropout_kind(options_of(key)), {x, key.step, key.sample, key.position});
}

Value dropout_add(Trace& trace, Value x, Value bias_or_absent, Value residual, const DropoutKey& key) {
  const bool random = key.p > 0;
  return trace.emit1(dropout_add_kind(options_of(key)),
                     {x, bias_or_absent, residual, random ? key.step : Value{}, random ? key.sample : Value{},
                      random ? key.position : Value{}});
}

}  // namespace megatron
