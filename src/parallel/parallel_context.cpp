#include "parallel/parallel_context.h"

#include "comm/buckets.h"
#include "comm/collectives.h"

namespace megatron {

Placement ParallelContext::tp_sharded(int dim) const {
  Placement placement = replicated();
  const int tp = mesh_.find("tp");
  if (tp >= 0) placement[static_cast<size_t>(tp)] = AxisPlacement::S(dim);
  return placement;
}

namespace {

/// Cuts dimension `dim` over the data-parallel ranks.
Placement over_data(Placement placement, const Mesh& mesh, int dim) {
  for (const char* axis : {"dp", kOuterData}) {
    const int found = mesh.find(axis);
    if (found >= 0) placement[static_cast<size_t>(found)] = AxisPlacement::S(dim);
  }
  return placement;
}

}  // namespace

Placement ParallelContext::tokens() const {
  Placement placement = over_data(replicated(), mesh_, 1);
  const int cp = mesh_.find("cp");
  if (cp >= 0) placement[static_cast<size_t>(cp)] = AxisPlacement::S(0);
  return placement;
}

Placement ParallelContext::samples() const {
  return over_data(replicated(), mesh_, 0);
}

Value ParallelContext::parameter(Trace& t, const std::string& name, DType dtype, const Dims& shape, Placement placement,
                                 const Init& init) const {
  const int dp = mesh_.find("dp");
  if (dp < 0 || data_.sharding < Sharding::kGradients) return t.parameter(name, dtype, shape, placement, init);
  const bool bf16 = data_.reduce_in_bf16;
  if (data_.sharding == Sharding::kGradients) {
    return share_flat(t, t.parameter(name, dtype, shape, placement, init), "dp", bf16);
  }
  placement[static_cast<size_t>(dp)] = AxisPlacement::F();
  return all_gather_flat(t, {t.parameter(name, dtype, shape, placement, init)}, "dp", bf16)[0];
}

Value ParallelContext::gather_in(Trace& t, Value x) const {
  if (mesh_.find("tp") < 0) return x;
  return sequence_parallel_ ? all_gather(t, x, "tp") : enter(t, x, "tp");
}

Value ParallelContext::to_stream(Trace& t, Value x) const {
  return sequence_parallel() && x ? slice(t, x, "tp") : x;
}

Value ParallelContext::reduce_out(Trace& t, Value x) const {
  if (mesh_.find("tp") < 0) return x;
  return sequence_parallel_ ? reduce_scatter(t, x, "tp") : all_reduce(t, x, "tp");
}

Value ParallelContext::gather_out(Trace& t, Value x) const {
  return mesh_.find("tp") < 0 ? x : all_gather(t, x, "tp");
}

int64_t data_parallel_size(const Mesh& mesh) {
  int64_t size = 1;
  for (const MeshAxis& axis : mesh.axes) {
    if (axis.name == "dp" || axis.name == kOuterData) size *= axis.size;
  }
  return size;
}

int64_t data_parallel_rank(const Mesh& mesh) {
  int64_t rank = 0, stride = 1;
  for (const MeshAxis& axis : mesh.axes) {
    if (axis.name != "dp" && axis.name != kOuterData) continue;
    rank += axis.coordinate * stride;
    stride *= axis.size;
  }
  return rank;
}

Value reduce_partial(Trace& t, Value x) {
  for (size_t axis = 0; axis < t.mesh().axes.size(); ++axis) {
    if (t.info(x).placement[axis].partial()) x = all_reduce(t, x, t.mesh().axes[axis].name);
  }
  return x;
}

bool is_gathered(const Program& program, ValueId v) {
  const OpId producer = program.value(v).producer;
  return producer != kNone && program.op(producer).kind->name() == "all_gather";
}

bool is_gathered_weight(const Program& program, ValueId v) {
  const OpId producer = program.value(v).producer;
  return producer != kNone && all_gather_flat_of(*program.op(producer).kind, 1) != nullptr;
}

}  // namespace megatron
