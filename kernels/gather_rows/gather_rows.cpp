// Declarations of gather_rows and of its gradient.
#include "kernels/gather_rows/gather_rows.h"

#include "base/check.h"
#include "base/strings.h"

namespace megatron {
namespace {

void require_index(const Operands& operands) {
  if (operands[1] == nullptr || operands[1]->dtype != DType::kI32)
    throw PlacementError{"the index is int32", "give it"};
}

class GatherRows final : public OpKind {
 public:
  std::string name() const override { return "gather_rows"; }
  Signature signature(const Operands& operands) const override {
    require_index(operands);
    Signature s = parse_signature("sbc,b->bc", operands[0]->dtype);
    s.whole = "s";
    s.linear = {{0}};
    return s;
  }
  void backward(BackwardContext& c) const override {
    if (!c.gradient(0) || !c.wants(0)) return;
    const int64_t rows = c.trace().shape(c.operand(0))[0];
    c.set(0, c.trace().emit1(scatter_rows_kind(rows), {c.gradient(0), c.operand(1)}));
  }
  Cost cost(const RunContext& c) const override {
    Cost cost;
    cost.bytes = 2.0 * static_cast<double>(c.out(0).bytes());
    return cost;
  }
  void run_cpu(const RunContext& c) const override { gather_rows_cpu({c.in(0), c.out(0), c.in(1), false}); }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    gather_rows_cuda({c.in(0), c.out(0), c.in(1), false}, c.stream);
  }
#endif
};

class ScatterRows final : public OpKind {
 public:
  explicit ScatterRows(int64_t rows) : rows_(rows) {}
  std::string name() const override { return "scatter_rows"; }
  std::string attributes() const override { return str_cat("rows=", rows_); }
  Signature signature(const Operands& operands) const override {
    require_index(operands);
    Signature s = parse_signature("bc,b->sbc", operands[0]->dtype);
    s.whole = "s";
    s.linear = {{0}};
    s.sizes = {{'s', rows_}};
    return s;
  }
  bool accumulates(int) const override { return true; }
  void backward(BackwardContext& c) const override {
    if (c.gradient(0) && c.wants(0)) {
      c.set(0, c.trace().emit1(gather_rows_kind(), {c.gradient(0), c.operand(1)}));
    }
  }
  void run_cpu(const RunContext& c) const override { scatter_rows_cpu({c.out(0), c.in(0), c.in(1), c.adds(0)}); }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    scatter_rows_cuda({c.out(0), c.in(0), c.in(1), c.adds(0)}, c.stream);
  }
#endif

 private:
  int64_t rows_;
};

}  // namespace

std::shared_ptr<const OpKind> gather_rows_kind() {
  return std::make_shared<GatherRows>();
}

std::shared_ptr<const OpKind> scatter_rows_kind(int64_t rows) {
  return std::make_shared<ScatterRows>(rows);
}

Value gather_rows(Trace& trace, Value x, Value index) {
  return trace.emit1(gather_rows_kind(), {x, index});
}

}  // namespace megatron
