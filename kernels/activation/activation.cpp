#include "kernels/activation/activation.h"

#include "kernels/common.h"

namespace megatron {
namespace {

// Operations that one evaluation counts as; only the ratio to bytes matters.
constexpr double kFlops = 12;

/// Operands dy, x; result dx, which may take dy's memory.
class ActivationBackward final : public OpKind {
 public:
  explicit ActivationBackward(ActivationKind kind) : kind_(kind) {}
  std::string name() const override { return "activation_backward"; }
  std::string attributes() const override { return std::string(name_of(kind_)); }
  Signature signature(const Operands& operands) const override {
    const std::string all = letters_from('a', operands[1]->shape.rank());
    return {{all, all}, {{all, operands[1]->dtype}}, "", {{0}}, {}};
  }
  int overwrites(int) const override { return 0; }
  Cost cost(const RunContext& shapes) const override {
    return {kFlops * static_cast<double>(shapes.in(1).numel()), touched_bytes(shapes), 0};
  }
  void run_cpu(const RunContext& c) const override {
    activation_backward_cpu({c.in(0), c.in(1), c.out(0), kind_}, c.pool);
  }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    activation_backward_cuda({c.in(0), c.in(1), c.out(0), kind_}, c.stream);
  }
#endif

 private:
  ActivationKind kind_;
};

class Activation final : public OpKind {
 public:
  explicit Activation(ActivationKind kind) : kind_(kind) {}
  std::string name() const override { return "activation"; }
  std::string attributes() const override { return std::string(name_of(kind_)); }
  Signature signature(const Operands& operands) const override {
    const std::string all = letters_from('a', operands[0]->shape.rank());
    return {{all}, {{all, operands[0]->dtype}}, "", {}, {}};
  }
  int overwrites(int) const override { return 0; }
  void backward(BackwardContext& context) const override {
    if (!context.gradient(0) || !context.wants(0)) return;
    context.set(0, context.trace().emit1(std::make_shared<ActivationBackward>(kind_),
                                         {context.gradient(0), context.operand(0)}));
  }
  Cost cost(const RunContext& shapes) const override {
    return {kFlops * static_cast<double>(shapes.in(0).numel()), touched_bytes(shapes), 0};
  }
  void run_cpu(const RunContext& c) const override { activation_cpu({c.in(0), c.out(0), kind_}, c.pool); }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    activation_cuda({c.in(0), c.out(0), kind_}, c.stream);
  }
#endif

 private:
  ActivationKind kind_;
};

/// Operands dy [..., f], x [..., 2, f]; result dx [..., 2, f].
class GatedActivationBackward final : public OpKind {
 public:
  explicit GatedActivationBackward(ActivationKind kind) : kind_(kind) {}
  std::string name() const override { return "gated_activation_backward"; }
  std::string attributes() const override { return std::string(name_of(kind_)); }
  Signature signature(const Operands& operands) const override {
    const std::string lead = letters_from('a', operands[1]->shape.rank() - 2);
    return {{lead + "f", lead + "gf"}, {{lead + "gf", operands[1]->dtype}}, "g", {{0}}, {{'g', 2}}};
  }
  Cost cost(const RunContext& shapes) const override {
    return {kFlops * static_cast<double>(shapes.in(1).numel()), touched_bytes(shapes), 0};
  }
  void run_cpu(const RunContext& c) const override {
    gated_activation_backward_cpu({c.in(0), c.in(1), c.out(0), kind_}, c.pool);
  }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    gated_activation_backward_cuda({c.in(0), c.in(1), c.out(0), kind_}, c.stream);
  }
#endif

 private:
  ActivationKind kind_;
};

class GatedActivation final : public OpKind {
 public:
  explicit GatedActivation(ActivationKind kind) : kind_(kind) {}
  std::string name() const override { return "gated_activation"; }
  std::string attributes() const override { return std::string(name_of(kind_)); }
  Signature signature(const Operands& operands) const override {
    MEGATRON_CHECK(operands[0]->shape.rank() >= 2, "gated_activation: x must be [..., 2, f]");
    const std::string lead = letters_from('a', operands[0]->shape.rank() - 2);
    return {{lead + "gf"}, {{lead + "f", operands[0]->dtype}}, "g", {}, {{'g', 2}}};
  }
  void backward(BackwardContext& context) const override {
    if (!context.gradient(0) || !context.wants(0)) return;
    context.set(0, context.trace().emit1(std::make_shared<GatedActivationBackward>(kind_),
                                         {context.gradient(0), context.operand(0)}));
  }
  Cost cost(const RunContext& shapes) const override {
    return {kFlops * 0.5 * static_cast<double>(shapes.in(0).numel()), touched_bytes(shapes), 0};
  }
  void run_cpu(const RunContext& c) const override { gated_activation_cpu({c.in(0), c.out(0), kind_}, c.pool); }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    gated_activation_cuda({c.in(0), c.out(0), kind_}, c.stream);
  }
#endif

 private:
  ActivationKind kind_;
};

}  // namespace

std::string_view name_of(ActivationKind kind) {
  switch (kind) {
    case ActivationKind::kGeluTanh:
      return "gelu_tanh";
    case ActivationKind::kGeluErf:
      return "gelu_erf";
    case ActivationKind::kSilu:
      return "silu";
    case ActivationKind::kSquaredRelu:
      return "squared_relu";
    case ActivationKind::kRelu:
      return "relu";
    case ActivationKind::kQuickGelu:
      return "quick_gelu";
  }
  return "?";
}

std::shared_ptr<const OpKind> activation_kind(ActivationKind kind) {
  return std::make_shared<Activation>(kind);
}
std::shared_ptr<const OpKind> gated_activation_kind(ActivationKind kind) {
  return std::make_shared<GatedActivation>(kind);
}

Value activation(Trace& trace, Value x, ActivationKind kind) {
  return trace.emit1(activation_kind(kind), {x});
}
Value gated_activation(Trace& trace, Value x, ActivationKind kind) {
  return trace.emit1(gated_activation_kind(kind), {x});
}

}  // namespace megatron
