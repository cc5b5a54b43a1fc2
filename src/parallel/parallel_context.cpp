#include "parallel/parallel_context.h"

#include "comm/collectives.h"

namespace megatron {

Placement ParallelContext::tp_sharded(int dim) const {
  Placement placement = replicated();
  const int tp = mesh_.find("tp");
  if (tp >= 0) placement[static_cast<size_t>(tp)] = AxisPlacement::S(dim);
  return placement;
}

Placement ParallelContext::tokens() const {
  Placement placement = replicated();
  const int cp = mesh_.find("cp"), dp = mesh_.find("dp");
  if (cp >= 0) placement[static_cast<size_t>(cp)] = AxisPlacement::S(0);
  if (dp >= 0) placement[static_cast<size_t>(dp)] = AxisPlacement::S(1);
  return placement;
}

Placement ParallelContext::stream() const {
  Placement placement = tokens();
  if (sequence_parallel()) placement[static_cast<size_t>(mesh_.find("tp"))] = AxisPlacement::S(0);
  return placement;
}

ParallelContext ParallelContext::within_stage() const {
  Mesh mesh = mesh_;
  std::erase_if(mesh.axes, [](const MeshAxis& axis) { return axis.name == "pp"; });
  return {std::move(mesh), sequence_parallel_};
}

int ParallelContext::stages() const {
  const int pp = mesh_.find("pp");
  return pp < 0 ? 1 : mesh_.axes[static_cast<size_t>(pp)].size;
}

int ParallelContext::stage() const {
  const int pp = mesh_.find("pp");
  return pp < 0 ? 0 : mesh_.axes[static_cast<size_t>(pp)].coordinate;
}

Placement ParallelContext::samples() const {
  Placement placement = replicated();
  const int dp = mesh_.find("dp");
  if (dp >= 0) placement[static_cast<size_t>(dp)] = AxisPlacement::S(0);
  return placement;
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

}  // namespace megatron
