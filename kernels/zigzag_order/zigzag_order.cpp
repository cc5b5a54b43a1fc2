#include "kernels/zigzag_order/zigzag_order.h"

#include "base/strings.h"
#include "program/strided.h"
#ifdef MEGATRON_HAVE_CUDA
#include "program/elementwise_cuda.h"
#endif

namespace megatron {
namespace {

class ZigzagOrder final : public OpKind {
 public:
  ZigzagOrder(int64_t ranks, SequenceOrder to) : ranks_(ranks), to_(to) {}
  std::string name() const override { return "zigzag_order"; }
  std::string attributes() const override {
    return str_cat(to_ == SequenceOrder::kNatural ? "from" : "to", " the parts of ", ranks_);
  }
  Signature signature(const Operands& operands) const override {
    const ValueInfo& x = *operands[0];
    const std::string letters = std::string("sabcdefg").substr(0, static_cast<size_t>(x.shape.rank()));
    if (x.shape.rank() == 0 || x.shape[0] % (2 * ranks_) != 0) {
      throw PlacementError{str_cat("x is ", to_string(x.shape), ", which is not ", 2 * ranks_, " equal chunks"),
                           "choose a length that the chunks divide"};
    }
    Signature s = parse_signature(letters + "->" + letters, x.dtype);
    s.linear = {{0}};
    return s;
  }
  bool takes_strided(int) const override { return true; }
  void backward(BackwardContext& c) const override {
    if (!c.gradient(0) || !c.wants(0)) return;
    const SequenceOrder back = to_ == SequenceOrder::kNatural ? SequenceOrder::kZigzag : SequenceOrder::kNatural;
    c.set(0, zigzag_order(c.trace(), c.gradient(0), ranks_, back));
  }
  void run_cpu(const RunContext& c) const override { for_each_chunk(c, copy_strided); }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    for_each_chunk(c, [&](const Tensor& from, const Tensor& to) { copy_strided_cuda(from, to, c.stream); });
  }
#endif

 private:
  template <typename Copy>
  void for_each_chunk(const RunContext& c, const Copy& copy) const {
    const int64_t chunks = 2 * ranks_;
    for (int64_t natural = 0; natural < chunks; ++natural) {
      const int64_t held = natural < ranks_ ? 2 * natural : 2 * (chunks - 1 - natural) + 1;
      const bool forward = to_ == SequenceOrder::kNatural;
      copy(chunk(c.in(0), forward ? held : natural), chunk(c.out(0), forward ? natural : held));
    }
  }

  Tensor chunk(Tensor x, int64_t index) const {
    x.shape[0] = div_exact(x.shape[0], 2 * ranks_);
    x.data = static_cast<std::byte*>(x.data) + index * x.shape[0] * x.strides[0] * size_of(x.dtype);
    return x;
  }

  int64_t ranks_;
  SequenceOrder to_;
};

}  // namespace

std::shared_ptr<const OpKind> zigzag_order_kind(int64_t ranks, SequenceOrder to) {
  return std::make_shared<ZigzagOrder>(ranks, to);
}

Value zigzag_order(Trace& trace, Value x, int64_t ranks, SequenceOrder to) {
  return trace.emit1(zigzag_order_kind(ranks, to), {x});
}

}  // namespace megatron
