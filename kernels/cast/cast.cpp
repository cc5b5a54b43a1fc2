#include "kernels/cast/cast.h"

#include "kernels/common.h"

namespace megatron {
namespace {

class Cast final : public OpKind {
 public:
  explicit Cast(DType to) : to_(to) {}
  std::string name() const override { return "cast"; }
  std::string attributes() const override { return "to=" + std::string(name_of(to_)); }
  Signature signature(const Operands& operands) const override {
    MEGATRON_CHECK(is_floating(operands[0]->dtype) && is_floating(to_), "cast: both types must be floating");
    const std::string all = letters_from('a', operands[0]->shape.rank());
    return {{all}, {{all, to_}}, "", {{0}}, {}};
  }
  void backward(BackwardContext& context) const override {
    if (!context.gradient(0) || !context.wants(0)) return;
    context.set(0, cast(context.trace(), context.gradient(0), context.trace().dtype(context.operand(0))));
  }
  void run_cpu(const RunContext& c) const override { cast_cpu({c.in(0), c.out(0)}, c.pool); }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    cast_cuda({c.in(0), c.out(0)}, c.stream);
  }
#endif

 private:
  DType to_;
};

class FillZero final : public OpKind {
 public:
  std::string name() const override { return "fill_zero"; }
  Signature signature(const Operands& operands) const override {
    return {{letters_from('a', operands[0]->shape.rank())}, {}, "", {{0}}, {}};
  }
  std::vector<int> updates() const override { return {0}; }
  void run_cpu(const RunContext& c) const override { fill_zero_cpu(c.in(0), c.pool); }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    fill_zero_cuda(c.in(0), c.stream);
  }
#endif
};

}  // namespace

std::shared_ptr<const OpKind> cast_kind(DType to) {
  return std::make_shared<Cast>(to);
}
std::shared_ptr<const OpKind> fill_zero_kind() {
  return std::make_shared<FillZero>();
}

Value cast(Trace& trace, Value x, DType to) {
  return trace.dtype(x) == to ? x : trace.emit1(cast_kind(to), {x});
}

void zero(Trace& trace, Value state) {
  trace.emit(fill_zero_kind(), {state});
}

}  // namespace megatron
