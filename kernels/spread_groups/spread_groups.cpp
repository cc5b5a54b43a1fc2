#include "kernels/spread_groups/spread_groups.h"

#include "base/strings.h"
#include "kernels/common.h"
#include "kernels/spread_groups/pieces.h"
#ifdef MEGATRON_HAVE_CUDA
#include "program/elementwise_cuda.h"
#endif

namespace megatron {
namespace {

/// What the two directions share: the axis is replicated on the side of the groups, sharded on the other.
class GroupsKind : public OpKind {
 public:
  GroupsKind(int64_t parts, std::string axis) : parts_(parts), axis_(std::move(axis)) {}
  std::string attributes() const override { return str_cat("parts=", parts_, axis_.empty() ? "" : " over " + axis_); }
  Signature signature(const Operands&) const override {
    fail_check(__FILE__, __LINE__, "signature", name() + " infers itself");
  }

 protected:
  static constexpr int kKeyAndValue = 2;

  /// The operand with other extents of dimensions 0 and 1, and `result` where it must be `wanted` over the axis.
  std::vector<ValueInfo> convert(const ValueInfo& x, const Mesh& mesh, int64_t groups, int64_t queries,
                                 AxisPlacement wanted, AxisPlacement result) const {
    ValueInfo y;
    y.dtype = x.dtype;
    y.shape = x.shape;
    y.shape[0] = groups;
    y.shape[1] = queries + kKeyAndValue;
    y.placement = x.placement;
    const int found = mesh.find(axis_);
    if (!axis_.empty() && found < 0) throw PlacementError{"the mesh has no axis '" + axis_ + "'", "give no axis"};
    for (int axis = 0; axis < mesh.rank(); ++axis) {
      AxisPlacement& p = y.placement[static_cast<size_t>(axis)];
      const bool fits = axis == found ? p == wanted : !p.sharded();
      if (!fits) {
        throw PlacementError{"the operand is " + to_string(x.placement, mesh),
                             axis == found && wanted.sharded() ? "shard dimension 0" : "all_gather it first"};
      }
      if (axis == found) p = result;
    }
    return {y};
  }

  int64_t parts_;
  std::string axis_;
};

class GatherGroups final : public GroupsKind {
 public:
  using GroupsKind::GroupsKind;
  std::string name() const override { return "gather_groups"; }
  std::vector<ValueInfo> infer(const Operands& operands, const Mesh& mesh) const override {
    const ValueInfo& x = *operands[0];
    return convert(x, mesh, div_exact(x.shape[0], parts_), (x.shape[1] - kKeyAndValue) * parts_, AxisPlacement::S(0),
                   AxisPlacement::P());
  }
  bool accumulates(int) const override { return true; }
  bool is_weight_gradient() const override { return true; }
  void run_cpu(const RunContext& c) const override { gather_groups_cpu(args(c), c.pool); }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    if (!c.adds(0)) zero_strided_cuda(c.out(0), c.stream);
    for_each_piece(args(c), [&](const Tensor& whole, const Tensor& part) { accumulate_cuda(part, whole, c.stream); });
  }
#endif

 private:
  SpreadGroupsArgs args(const RunContext& c) const {
    return {c.out(0), c.in(0), parts_, c.in_origin(0)[0], c.adds(0)};
  }
};

class SpreadGroups final : public GroupsKind {
 public:
  using GroupsKind::GroupsKind;
  std::string name() const override { return "spread_groups"; }
  std::vector<ValueInfo> infer(const Operands& operands, const Mesh& mesh) const override {
    const ValueInfo& x = *operands[0];
    if (x.shape.rank() < 2 || (x.shape[1] - kKeyAndValue) % parts_ != 0) {
      throw PlacementError{str_cat("w is ", to_string(x.shape), ", whose queries are not a multiple of ", parts_),
                           "give [groups, queries + 2, ...]"};
    }
    return convert(x, mesh, x.shape[0] * parts_, (x.shape[1] - kKeyAndValue) / parts_, AxisPlacement::R(),
                   AxisPlacement::S(0));
  }
  void backward(BackwardContext& c) const override {
    if (!c.gradient(0) || !c.wants(0)) return;
    c.set(0, c.trace().emit1(gather_groups_kind(parts_, axis_), {c.gradient(0)}));
  }
  void run_cpu(const RunContext& c) const override { spread_groups_cpu(args(c)); }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    for_each_piece(args(c), [&](const Tensor& whole, const Tensor& part) { copy_strided_cuda(whole, part, c.stream); });
  }
#endif

 private:
  SpreadGroupsArgs args(const RunContext& c) const {
    return {c.in(0), c.out(0), parts_, c.out_origin(0)[0], false};
  }
};

}  // namespace

std::shared_ptr<const OpKind> spread_groups_kind(int64_t parts, const std::string& axis) {
  return std::make_shared<SpreadGroups>(parts, axis);
}

std::shared_ptr<const OpKind> gather_groups_kind(int64_t parts, const std::string& axis) {
  return std::make_shared<GatherGroups>(parts, axis);
}

Value spread_groups(Trace& trace, Value w, int64_t parts, const std::string& axis) {
  return trace.emit1(spread_groups_kind(parts, axis), {w});
}

}  // namespace megatron
