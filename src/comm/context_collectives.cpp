#include "comm/context_collectives.h"

#include <functional>
#include <utility>

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

size_t index_of(const Mesh& mesh, const std::string& axis) {
  const int found = mesh.find(axis);
  if (found < 0) throw PlacementError{"the mesh has no axis '" + axis + "'", "skip collectives over axes of one rank"};
  return static_cast<size_t>(found);
}

void require(const ValueInfo& x, const Mesh& mesh, const std::string& axis, AxisPlacement wanted) {
  if (x.placement[index_of(mesh, axis)] == wanted) return;
  throw PlacementError{str_cat("the operand is ", to_string(x.placement, mesh), ", which is not sharded on dimension ",
                               wanted.dim, " over ", axis),
                       "use the collective that fits the placement"};
}

/// Ranks by which dimension `dim` is cut, over all axes.
int64_t cuts_of(const Placement& placement, const Mesh& mesh, int dim) {
  int64_t cuts = 1;
  for (size_t a = 0; a < placement.size(); ++a) {
    if (placement[a] == AxisPlacement::S(dim)) cuts *= mesh.axes[a].size;
  }
  return cuts;
}

void require_equal_blocks(const ValueInfo& x, const Placement& placement, const Mesh& mesh, int dim) {
  const int64_t cuts = cuts_of(placement, mesh, dim);
  if (x.shape[dim] % cuts == 0) return;
  throw PlacementError{str_cat("dimension ", dim, " of ", to_string(x.shape), " is not ", cuts, " equal blocks"),
                       "choose a size that the ranks divide"};
}

ValueInfo moved(const ValueInfo& x, const Placement& placement) {
  ValueInfo y;
  y.dtype = x.dtype;
  y.shape = x.shape;
  y.placement = placement;
  y.sample_dim = x.sample_dim;
  return y;
}

class ContextCollective : public OpKind {
 public:
  explicit ContextCollective(std::string axis) : axis_(std::move(axis)) {}
  std::string comm_axis() const override { return axis_; }
  Signature signature(const Operands&) const override {
    fail_check(__FILE__, __LINE__, "signature", "collectives infer themselves");
  }
  void run_cpu(const RunContext& c) const override { communicate(c, copy_strided); }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    communicate(c, [&](const Tensor& from, const Tensor& to) { copy_strided_cuda(from, to, c.stream); });
  }
#endif

 protected:
  using Copy = std::function<void(const Tensor& from, const Tensor& to)>;
  virtual void communicate(const RunContext& c, const Copy& copy) const = 0;
  std::string axis_;
};

class RingShift final : public ContextCollective {
 public:
  RingShift(std::string axis, int steps, int values)
      : ContextCollective(std::move(axis)), steps_(steps), values_(values) {}
  std::string name() const override { return "ring_shift"; }
  std::string attributes() const override { return str_cat(axis_, " by ", steps_); }

  std::vector<ValueInfo> infer(const Operands& operands, const Mesh& mesh) const override {
    std::vector<ValueInfo> results;
    for (const ValueInfo* x : operands) {
      require(*x, mesh, axis_, AxisPlacement::S(0));
      require_equal_blocks(*x, x->placement, mesh, 0);
      results.push_back(moved(*x, x->placement));
    }
    return results;
  }

  std::vector<PlannedCall> calls(const RunContext& c, DeviceKind) const override {
    const auto [to, from] = neighbours(c.place);
    std::vector<PlannedCall> all;
    for (const Tensor& x : c.operands) {
      all.push_back(PlannedCall::exchange(x.dtype, x.numel(), to, x.numel(), from));  // blocks are equal
    }
    return all;
  }

  void backward(BackwardContext& context) const override {
    Trace& t = context.trace();
    for (int i = 0; i < values_; ++i) {
      if (context.gradient(i)) context.set(i, ring_shift(t, {context.gradient(i)}, axis_, -steps_)[0]);
    }
  }

 protected:
  void communicate(const RunContext& c, const Copy&) const override {
    const auto [to, from] = neighbours({c.comm->rank(), c.comm->size()});
    for (size_t i = 0; i < c.operands.size(); ++i) c.comm->exchange(c.operands[i], to, c.results[i], from, c.stream);
  }

 private:
  /// Receiver and sender.
  std::pair<int, int> neighbours(const CommPlace& place) const {
    const int size = place.ranks, ahead = (steps_ % size + size) % size;
    return {(place.rank + ahead) % size, (place.rank + size - ahead) % size};
  }

  int steps_, values_;
};

class AllToAll final : public ContextCollective {
 public:
  /// Cuts dimension `cut`, and joins dimension `join`; one of them is 0.
  AllToAll(std::string axis, int cut, int join) : ContextCollective(std::move(axis)), cut_(cut), join_(join) {}
  std::string name() const override { return "all_to_all"; }
  std::string attributes() const override { return str_cat(axis_, " from dim ", join_, " to dim ", cut_); }
  bool takes_strided(int) const override { return cut_ > 0; }

  std::vector<ValueInfo> infer(const Operands& operands, const Mesh& mesh) const override {
    const ValueInfo& x = *operands[0];
    require(x, mesh, axis_, AxisPlacement::S(join_));
    Placement placement = x.placement;
    placement[index_of(mesh, axis_)] = AxisPlacement::S(cut_);
    require_equal_blocks(x, x.placement, mesh, join_);
    require_equal_blocks(x, placement, mesh, cut_);
    const Placement& over_sequence = cut_ == 0 ? placement : x.placement;
    for (size_t inner = 0; inner < index_of(mesh, axis_); ++inner) {
      if (over_sequence[inner] != AxisPlacement::S(0)) continue;
      throw PlacementError{str_cat("dimension 0 is also sharded over ", mesh.axes[inner].name,
                                   ", whose blocks lie inside those of ", axis_),
                           str_cat("gather over ", mesh.axes[inner].name, " first")};
    }
    return {moved(x, placement)};
  }

  void backward(BackwardContext& context) const override {
    const Value g = context.gradient(0);
    if (!g) return;
    context.set(0, cut_ > 0 ? sequence_for_heads(context.trace(), g, axis_, cut_)
                            : heads_for_sequence(context.trace(), g, axis_, join_));
  }

  std::vector<PlannedCall> calls(const RunContext& c, DeviceKind) const override {
    if (c.in(0).numel() == 0) return {};
    return {PlannedCall::all_to_all(c.in(0).dtype, c.in(0).numel(), c.place.ranks)};
  }

  /// Blocks of dimension 0 are contiguous; those of the other dimension are packed.
  int64_t workspace(const RunContext& c, DeviceKind) const override { return c.in(0).bytes(); }

 protected:
  void communicate(const RunContext& c, const Copy& copy) const override {
    const Tensor &x = c.in(0), &y = c.out(0);
    const int size = c.comm->size();
    const std::vector<int64_t> counts(static_cast<size_t>(size), x.numel() / size);
    const Tensor packed = make_tensor(c.workspace, x.dtype, {x.numel()});
    const Tensor flat_x = make_tensor(x.data, x.dtype, {x.numel()}), flat_y = make_tensor(y.data, y.dtype, {y.numel()});
    if (x.numel() == 0) return;
    if (cut_ > 0) {
      for (int r = 0; r < size; ++r) copy(part_of(x, cut_, size, r), block_of_packed(packed, x, r, size));
      c.comm->all_to_all(packed, flat_y, counts.data(), counts.data(), c.stream);
    } else {
      c.comm->all_to_all(flat_x, packed, counts.data(), counts.data(), c.stream);
      for (int r = 0; r < size; ++r) copy(block_of_packed(packed, y, r, size), part_of(y, join_, size, r));
    }
  }

 private:
  int packed_dim() const { return cut_ > 0 ? cut_ : join_; }

  static Tensor part_of(Tensor x, int dim, int parts, int part) {
    x.shape[dim] = div_exact(x.shape[dim], parts);
    x.data = static_cast<std::byte*>(x.data) + part * x.shape[dim] * x.strides[dim] * size_of(x.dtype);
    return x;
  }
  /// What goes to or comes from rank r, with the shape of a part of `like`.
  Tensor block_of_packed(const Tensor& packed, const Tensor& like, int r, int parts) const {
    Dims shape = like.shape;
    shape[packed_dim()] = div_exact(shape[packed_dim()], parts);
    return make_tensor(static_cast<std::byte*>(packed.data) + r * shape.numel() * size_of(like.dtype), like.dtype,
                       shape);
  }
  int cut_, join_;
};

}  // namespace

std::vector<Value> ring_shift(Trace& t, const std::vector<Value>& values, const std::string& axis, int steps) {
  return t.emit(std::make_shared<RingShift>(axis, steps, narrow<int>(std::ssize(values))), values);
}

Value heads_for_sequence(Trace& t, Value x, const std::string& axis, int dim) {
  return t.emit1(std::make_shared<AllToAll>(axis, dim, 0), {x});
}

Value sequence_for_heads(Trace& t, Value x, const std::string& axis, int dim) {
  return t.emit1(std::make_shared<AllToAll>(axis, 0, dim), {x});
}

}  // namespace megatron
