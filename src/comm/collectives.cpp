#include "comm/collectives.h"

#include <vector>

#include "base/check.h"
#include "base/strings.h"
#include "program/comm.h"
#include "program/planned_call.h"
#include "program/strided.h"
#ifdef MEGATRON_HAVE_CUDA
#include "program/elementwise_cuda.h"
#endif

namespace megatron {
namespace {

enum class Collective { kAllReduce, kReduceScatter, kAllGather, kSlice, kEnter };

const char* collective_name(Collective kind) {
  switch (kind) {
    case Collective::kAllReduce:
      return "all_reduce";
    case Collective::kReduceScatter:
      return "reduce_scatter";
    case Collective::kAllGather:
      return "all_gather";
    case Collective::kSlice:
      return "slice";
    case Collective::kEnter:
      return "enter";
  }
  return "?";
}

class CollectiveKind final : public OpKind {
 public:
  CollectiveKind(Collective kind, std::string axis) : kind_(kind), axis_(std::move(axis)) {}
  std::string name() const override { return collective_name(kind_); }
  std::string attributes() const override { return axis_; }
  std::string comm_axis() const override { return is_view() ? "" : axis_; }
  bool is_view() const override { return kind_ == Collective::kEnter; }
  Signature signature(const Operands&) const override {
    fail_check(__FILE__, __LINE__, "signature", "collectives infer themselves");
  }

  std::vector<ValueInfo> infer(const Operands& operands, const Mesh& mesh) const override {
    const int axis = mesh.find(axis_);
    if (axis < 0)
      throw PlacementError{"the mesh has no axis '" + axis_ + "'", "skip collectives over axes of one rank"};
    const ValueInfo& x = *operands[0];
    ValueInfo y;
    y.dtype = x.dtype;
    y.shape = x.shape;
    y.placement = x.placement;
    y.sample_dim = x.sample_dim;
    AxisPlacement& p = y.placement[static_cast<size_t>(axis)];
    const AxisPlacement wanted = operand_placement();
    if (!(p == wanted)) {
      throw PlacementError{
          str_cat("the operand is ", to_string(x.placement, mesh), ", which is not ", text(wanted), " over ", axis_),
          "use the collective that fits the placement"};
    }
    p = result_placement();
    if (moves_blocks()) check_nesting(x, axis, mesh);
    if (is_view()) y.storage = x.storage;
    return {y};
  }

  void backward(BackwardContext& context) const override {
    const Value g = context.gradient(0);
    if (!g) return;
    Trace& t = context.trace();
    const bool partial = t.info(g).placement[static_cast<size_t>(t.mesh().find(axis_))].partial();
    switch (kind_) {
      case Collective::kAllReduce:
      case Collective::kEnter:
        return context.set(0, partial ? all_reduce(t, g, axis_) : g);
      case Collective::kReduceScatter:
      case Collective::kSlice:
        return context.set(0, all_gather(t, g, axis_));
      case Collective::kAllGather:
        return context.set(0, partial ? reduce_scatter(t, g, axis_) : slice(t, g, axis_));
    }
  }

  std::vector<PlannedCall> calls(const RunContext& c, DeviceKind) const override {
    const Tensor& x = c.in(0);
    switch (kind_) {
      case Collective::kAllReduce:
        return {PlannedCall::all_reduce(x.dtype, x.numel())};
      case Collective::kReduceScatter:
        return {PlannedCall::reduce_scatter(x.dtype, counts_of(x.shape, c.place.ranks), c.place.rank)};
      case Collective::kAllGather:
        return {PlannedCall::all_gather(x.dtype, counts_of(c.out(0).shape, c.place.ranks), c.place.rank)};
      case Collective::kSlice:
      case Collective::kEnter:
        return {};
    }
    return {};
  }

  void run_cpu(const RunContext& c) const override {
    if (kind_ == Collective::kSlice) return copy_strided(own_block(c), c.out(0));
    communicate(c);
  }

#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    if (kind_ == Collective::kSlice) return copy_strided_cuda(own_block(c), c.out(0), c.stream);
    communicate(c);
  }
#endif

 private:
  bool moves_blocks() const {
    return kind_ != Collective::kAllReduce && kind_ != Collective::kEnter;
  }

  /// Blocks of an inner (earlier) mesh axis lie inside those of an outer one, so only the innermost shard of dimension
  /// 0 can be made or undone by itself.
  void check_nesting(const ValueInfo& x, int axis, const Mesh& mesh) const {
    if (x.shape.rank() == 0) throw PlacementError{"a scalar has no dimension to cut", "use all_reduce"};
    if (is_flat(x.placement)) throw PlacementError{"the operand is flat", "all_gather its flat axis first"};
    for (int inner = 0; inner < axis; ++inner) {
      if (x.placement[static_cast<size_t>(inner)] != AxisPlacement::S(0)) continue;
      const std::string& name = mesh.axes[static_cast<size_t>(inner)].name;
      throw PlacementError{
          str_cat("dimension 0 is also sharded over ", name, ", whose blocks lie inside those of ", axis_),
          str_cat("gather over ", name, " first")};
    }
  }

  void communicate(const RunContext& c) const {
    const Tensor &x = c.in(0), &y = c.out(0);
    if (kind_ == Collective::kAllReduce) return c.comm->all_reduce(x, y, Reduction::kSum, c.stream);
    const Dims& whole = kind_ == Collective::kAllGather ? y.shape : x.shape;
    const std::vector<int64_t> counts = counts_of(whole, c.comm->size());
    if (kind_ == Collective::kAllGather) return c.comm->all_gather(x, y, counts.data(), c.stream);
    c.comm->reduce_scatter(x, y, counts.data(), c.stream);
  }

  /// Elements of each rank's block.
  static std::vector<int64_t> counts_of(const Dims& whole, int ranks) {
    int64_t row = 1;  // a rank may hold no rows at all
    for (int d = 1; d < whole.rank(); ++d) row *= whole[d];
    std::vector<int64_t> counts;
    for (int r = 0; r < ranks; ++r) counts.push_back(block_of(whole[0], ranks, r).size * row);
    return counts;
  }

  /// The part of a replicated operand that slice keeps here.
  static Tensor own_block(const RunContext& c) {
    Tensor part = c.in(0);
    const Block block = block_of(part.shape[0], c.comm->size(), c.comm->rank());
    part.data = static_cast<std::byte*>(part.data) + block.begin * part.strides[0] * size_of(part.dtype);
    part.shape[0] = block.size;
    return part;
  }

  AxisPlacement operand_placement() const {
    switch (kind_) {
      case Collective::kAllReduce:
      case Collective::kReduceScatter:
        return AxisPlacement::P();
      case Collective::kAllGather:
        return AxisPlacement::S(0);
      default:
        return AxisPlacement::R();
    }
  }
  AxisPlacement result_placement() const {
    return kind_ == Collective::kReduceScatter || kind_ == Collective::kSlice ? AxisPlacement::S(0)
                                                                              : AxisPlacement::R();
  }
  static const char* text(const AxisPlacement& p) {
    return p.partial() ? "partial" : p.sharded() ? "sharded on dimension 0" : "replicated";
  }

  Collective kind_;
  std::string axis_;
};

Value emit_collective(Trace& t, Collective kind, Value x, const std::string& axis) {
  return t.emit1(std::make_shared<CollectiveKind>(kind, axis), {x});
}

}  // namespace

Value all_reduce(Trace& t, Value x, const std::string& axis) {
  return emit_collective(t, Collective::kAllReduce, x, axis);
}
Value reduce_scatter(Trace& t, Value x, const std::string& axis) {
  return emit_collective(t, Collective::kReduceScatter, x, axis);
}
Value all_gather(Trace& t, Value x, const std::string& axis) {
  return emit_collective(t, Collective::kAllGather, x, axis);
}
Value slice(Trace& t, Value x, const std::string& axis) {
  return emit_collective(t, Collective::kSlice, x, axis);
}
Value enter(Trace& t, Value x, const std::string& axis) {
  return emit_collective(t, Collective::kEnter, x, axis);
}

}  // namespace megatron
