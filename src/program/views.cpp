#include "program/views.h"

#include <numeric>
#include <set>
#include <utility>

#include "base/check.h"
#include "base/strings.h"
#include "program/elementwise.h"

namespace megatron {
namespace {

/// Finds, for groups of dimensions with equal products in both shapes, [old begin, old end) and [new begin, new end).
struct DimGroup {
  int old_begin, old_end, new_begin, new_end;
};

std::vector<DimGroup> match_dims(const Dims& from, const Dims& to) {
  std::vector<DimGroup> groups;
  int i = 0, j = 0;
  while (i < from.rank() || j < to.rank()) {
    DimGroup g{i, i, j, j};
    int64_t a = 1, b = 1;
    if (i < from.rank()) a = from[i++];
    if (j < to.rank()) b = to[j++];
    while (a != b) {
      if (a < b && i < from.rank()) {
        a *= from[i++];
      } else if (j < to.rank()) {
        b *= to[j++];
      } else if (i < from.rank()) {
        a *= from[i++];
      } else {
        throw PlacementError{str_cat("cannot reshape ", to_string(from), " to ", to_string(to)),
                             "keep the number of elements"};
      }
    }
    // Trailing sizes of 1 belong to the group before them.
    if (i == from.rank()) {
      while (j < to.rank() && to[j] == 1) ++j;
    }
    if (j == to.rank()) {
      while (i < from.rank() && from[i] == 1) ++i;
    }
    g.old_end = i;
    g.new_end = j;
    groups.push_back(g);
  }
  return groups;
}

/// A flat part has no dimensions to name.
void refuse_flat(const ValueInfo& x) {
  if (is_flat(x.placement)) throw PlacementError{"the operand is flat", "all_gather it first"};
}

class Reshape final : public OpKind {
 public:
  explicit Reshape(const Dims& shape) : shape_(shape) {}
  std::string name() const override { return "reshape"; }
  std::string attributes() const override { return to_string(shape_); }
  bool is_view() const override { return true; }
  Signature signature(const Operands&) const override {
    fail_check(__FILE__, __LINE__, "signature", "views have none");
  }

  std::vector<ValueInfo> infer(const Operands& operands, const Mesh& mesh) const override {
    const ValueInfo& x = *operands[0];
    refuse_flat(x);
    if (x.shape.numel() != shape_.numel()) {
      throw PlacementError{str_cat("cannot reshape ", to_string(x.shape), " to ", to_string(shape_)),
                           "keep the number of elements"};
    }
    ValueInfo y;
    y.dtype = x.dtype;
    y.shape = shape_;
    y.placement.resize(mesh.axes.size());
    const std::vector<DimGroup> groups = match_dims(x.shape, shape_);
    for (size_t axis = 0; axis < mesh.axes.size(); ++axis) {
      const AxisPlacement& p = x.placement[axis];
      y.placement[axis] = p.sharded() ? move_shard(x.shape, p.dim, groups, mesh.axes[axis]) : p;
    }
    for (const DimGroup& g : groups) check_blocks(x, y.placement, g, mesh);
    for (const DimGroup& g : groups) {
      if (x.sample_dim == g.old_begin && g.old_end == g.old_begin + 1 && g.new_end == g.new_begin + 1)
        y.sample_dim = g.new_begin;
    }
    y.storage = x.storage;
    y.storage.strides = reshaped_strides(local_box(x.shape, x.placement, mesh).extent, x.storage.strides,
                                         local_box(y.shape, y.placement, mesh).extent);
    return {y};
  }

  void backward(BackwardContext& context) const override {
    if (!context.gradient(0)) return;
    Trace& t = context.trace();
    context.set(0, reshape(t, context.gradient(0), t.shape(context.operand(0))));
  }

 private:
  [[noreturn]] void refuse(int dim, const MeshAxis& axis) const {
    throw PlacementError{str_cat("a reshape to ", to_string(shape_), " would mix the blocks of dimension ", dim,
                                 ", which is sharded over ", axis.name),
                         "keep the sharded dimension outermost, or gather first"};
  }

  /// The sharded dimension is the outermost of its group (sizes of 1 aside), and so is the one that it becomes.
  AxisPlacement move_shard(const Dims& from, int dim, const std::vector<DimGroup>& groups, const MeshAxis& axis) const {
    for (const DimGroup& g : groups) {
      if (dim < g.old_begin || dim >= g.old_end) continue;
      for (int d = g.old_begin; d < dim; ++d) {
        if (from[d] != 1) refuse(dim, axis);
      }
      int target = g.new_begin;
      while (target + 1 < g.new_end && shape_[target] == 1 && from[dim] != 1) ++target;
      if (target < g.new_end) return AxisPlacement::S(target);
    }
    refuse(dim, axis);
  }

  /// Every rank must hold the same elements before and after. Blocks of several axes on one dimension nest as in
  /// local_box(), later axes outside.
  void check_blocks(const ValueInfo& x, const Placement& placement, const DimGroup& g, const Mesh& mesh) const {
    std::set<std::pair<int64_t, int64_t>> blocks;  // sizes (before, after) that occur on some rank
    for (size_t axis = mesh.axes.size(); axis-- > 0;) {
      const int dim = x.placement[axis].dim, target = placement[axis].dim, parts = mesh.axes[axis].size;
      if (!x.placement[axis].sharded() || dim < g.old_begin || dim >= g.old_end) continue;
      int64_t inner_old = 1, inner_new = 1;
      for (int d = dim + 1; d < g.old_end; ++d) inner_old *= x.shape[d];
      for (int d = target + 1; d < g.new_end; ++d) inner_new *= shape_[d];
      if (blocks.empty()) blocks.insert({x.shape[dim], shape_[target]});
      std::set<std::pair<int64_t, int64_t>> inner;
      for (const auto& [before, after] : blocks) {
        for (int part = 0; part < parts; ++part) {
          const Block a = block_of(before, parts, part), b = block_of(after, parts, part);
          if (a.begin * inner_old != b.begin * inner_new || a.size * inner_old != b.size * inner_new) {
            refuse(dim, mesh.axes[axis]);
          }
          inner.insert({a.size, b.size});
        }
      }
      blocks = std::move(inner);
    }
  }

  Dims shape_;
};

class Split final : public OpKind {
 public:
  Split(int dim, std::vector<int64_t> sizes) : dim_(dim), sizes_(std::move(sizes)) {}
  std::string name() const override { return "split"; }
  std::string attributes() const override {
    std::vector<std::string> parts;
    for (int64_t size : sizes_) parts.push_back(std::to_string(size));
    return str_cat("dim=", dim_, " sizes=", join(parts, "+"));
  }
  bool is_view() const override { return true; }
  Signature signature(const Operands&) const override {
    fail_check(__FILE__, __LINE__, "signature", "views have none");
  }

  std::vector<ValueInfo> infer(const Operands& operands, const Mesh&) const override {
    const ValueInfo& x = *operands[0];
    refuse_flat(x);
    const int64_t total = std::accumulate(sizes_.begin(), sizes_.end(), int64_t{0});
    if (dim_ < 0 || dim_ >= x.shape.rank() || total != x.shape[dim_]) {
      throw PlacementError{
          str_cat("parts of dimension ", dim_, " add up to ", total, ", the value is ", to_string(x.shape)),
          "give sizes that add up"};
    }
    for (const AxisPlacement& p : x.placement) {
      if (p.sharded() && p.dim == dim_)
        throw PlacementError{"the split dimension is sharded", "split another dimension, or gather first"};
    }
    std::vector<ValueInfo> parts;
    int64_t begin = 0;
    for (int64_t size : sizes_) {
      ValueInfo part;
      part.dtype = x.dtype;
      part.shape = x.shape;
      part.shape[dim_] = size;
      part.placement = x.placement;
      part.sample_dim = x.sample_dim == dim_ ? -1 : x.sample_dim;
      part.storage = x.storage;
      part.storage.offset += begin * x.storage.strides[dim_];
      parts.push_back(part);
      begin += size;
    }
    return parts;
  }

  void backward(BackwardContext& context) const override {
    Trace& t = context.trace();
    std::vector<Value> parts;
    bool any = false;
    for (size_t i = 0; i < sizes_.size(); ++i) {
      parts.push_back(context.gradient(static_cast<int>(i)));
      any = any || parts.back();
    }
    if (any) context.set(0, concatenate(t, context.operand(0), parts, dim_, sizes_));
  }

 private:
  int dim_;
  std::vector<int64_t> sizes_;
};

}  // namespace

Dims reshaped_strides(const Dims& from, const Dims& from_strides, const Dims& to) {
  if (is_contiguous(from, from_strides)) return contiguous_strides(to);
  Dims strides = to;
  for (const DimGroup& g : match_dims(from, to)) {
    for (int d = g.old_begin; d + 1 < g.old_end; ++d) {
      if (from[d] != 1 && from_strides[d] != from_strides[d + 1] * from[d + 1]) {
        throw PlacementError{"the reshape merges dimensions of a strided view", "insert contiguous()"};
      }
    }
    int64_t stride = g.old_end > g.old_begin ? from_strides[g.old_end - 1] : 1;
    for (int d = g.new_end - 1; d >= g.new_begin; --d) {
      strides[d] = stride;
      stride *= to[d];
    }
  }
  return strides;
}

Value reshape(Trace& t, Value x, const Dims& shape) {
  if (t.shape(x) == shape) return x;
  return t.emit1(std::make_shared<Reshape>(shape), {x});
}

std::vector<Value> split(Trace& t, Value x, int dim, const std::vector<int64_t>& sizes) {
  return t.emit(std::make_shared<Split>(dim, sizes), {x});
}

}  // namespace megatron
