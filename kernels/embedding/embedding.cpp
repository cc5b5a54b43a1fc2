#include "kernels/embedding/embedding.h"

#include <algorithm>

#include "kernels/common.h"
#include "kernels/embedding/embedding_plan_cuda.h"

namespace megatron {
namespace {

/// Operands weight (for its type only), ids, dy; result the weight gradient.
class EmbeddingBackward final : public OpKind {
 public:
  std::string name() const override { return "embedding_backward"; }
  Signature signature(const Operands& operands) const override {
    const std::string lead = letters_from('a', operands[1]->shape.rank());
    return {{"vn", lead, lead + "n"}, {{"vn", accumulation_dtype(operands[2]->dtype)}}, "", {{2}}, {}};
  }
  bool accumulates(int) const override { return true; }
  bool is_weight_gradient() const override { return true; }
  Cost cost(const RunContext& shapes) const override {
    // Every token has a row of its own, as far as there are rows.
    const Tensor &dy = shapes.in(2), &dweight = shapes.out(0);
    const int64_t rows = std::min(shapes.in(1).numel(), dweight.shape[0]);
    const int64_t bytes = dy.bytes() + 2 * rows * dweight.shape[1] * size_of(dweight.dtype);
    return {static_cast<double>(dy.numel()), static_cast<double>(bytes), 0};
  }
  int64_t workspace(const RunContext& shapes, DeviceKind device) const override {
    if (device == DeviceKind::kCpu) return 0;
    return embedding_backward_workspace_cuda({shapes.in(2), shapes.in(1), shapes.out(0)});
  }
  void run_cpu(const RunContext& c) const override { embedding_backward_cpu(args(c), c.pool); }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    embedding_backward_cuda(args(c), c.workspace, c.stream);
  }
#endif

 private:
  static EmbeddingBackwardArgs args(const RunContext& c) {
    return {c.in(2), c.in(1), c.out(0), c.in_origin(0)[0], c.adds(0)};
  }
};

class Embedding final : public OpKind {
 public:
  explicit Embedding(std::optional<DType> out) : out_(out) {}
  std::string name() const override { return "embedding"; }
  std::string attributes() const override { return out_ ? "out=" + std::string(name_of(*out_)) : ""; }
  Signature signature(const Operands& operands) const override {
    MEGATRON_CHECK(operands[1]->dtype == DType::kI32, "embedding: ids must be int32");
    const std::string lead = letters_from('a', operands[1]->shape.rank());
    return {{"vn", lead}, {{lead + "n", out_.value_or(operands[0]->dtype)}}, "", {{0}}, {}};
  }
  void backward(BackwardContext& context) const override {
    if (!context.gradient(0) || !context.wants(0)) return;
    context.set(0, context.trace().emit1(std::make_shared<EmbeddingBackward>(),
                                         {context.operand(0), context.operand(1), context.gradient(0)}));
  }
  Cost cost(const RunContext& shapes) const override {
    const double read = static_cast<double>(shapes.out(0).numel() * size_of(shapes.in(0).dtype));
    return {0, read + static_cast<double>(shapes.out(0).bytes() + shapes.in(1).bytes()), 0};
  }
  void run_cpu(const RunContext& c) const override {
    embedding_cpu({c.in(0), c.in(1), c.out(0), c.in_origin(0)[0]}, c.pool);
  }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    embedding_cuda({c.in(0), c.in(1), c.out(0), c.in_origin(0)[0]}, c.stream);
  }
#endif

 private:
  std::optional<DType> out_;
};

}  // namespace

int64_t embedding_backward_workspace_cuda(const EmbeddingBackwardArgs& args) {
  return embedding_cuda_plan::make_layout(args.ids.numel(), args.dweight.shape[1], size_of(args.dweight.dtype)).bytes;
}

std::shared_ptr<const OpKind> embedding_kind(std::optional<DType> out) {
  return std::make_shared<Embedding>(out);
}

Value embedding(Trace& trace, Value weight, Value ids, std::optional<DType> out) {
  return trace.emit1(embedding_kind(out), {weight, ids});
}

}  // namespace megatron
