// Local shapes of operations, and the costs that follow from them.
#include "program/passes.h"
#include "program/plan.h"

namespace megatron {

RunContext OpShapes::context() const {
  RunContext c;
  c.operands = operands;
  c.results = results;
  c.accumulate = accumulate;
  c.operand_origins = operand_origins;
  c.result_origins = result_origins;
  c.place = place;
  c.unread = unread;
  return c;
}

namespace {

CommPlace place_on(const Program& program, const Mesh& mesh, const std::string& axis) {
  for (const std::vector<MeshAxis>* axes : {&mesh.axes, &program.groups}) {
    for (const MeshAxis& a : *axes) {
      if (a.name == axis) return {a.coordinate, a.size};
    }
  }
  return {};
}

}  // namespace

OpShapes shapes_of(const Program& program, const Op& op) {
  return shapes_of(program, op, program.mesh);
}

OpShapes shapes_of(const Program& program, const Op& op, const Mesh& mesh) {
  OpShapes shapes;
  shapes.place = place_on(program, mesh, op.kind->comm_axis());
  const auto describe = [&](ValueId v, std::vector<Tensor>& tensors, std::vector<Dims>& origins) {
    tensors.emplace_back();
    origins.emplace_back();
    if (v == kNone) return;
    const ValueInfo& info = program.value(v);
    const LocalBox box = local_box(info.shape, info.placement, mesh);
    tensors.back() = Tensor{nullptr, info.dtype, local_shape(info.shape, info.placement, mesh), info.storage.strides};
    origins.back() = box.origin;
  };
  for (ValueId v : op.operands) describe(v, shapes.operands, shapes.operand_origins);
  for (ValueId v : op.results) describe(v, shapes.results, shapes.result_origins);
  for (ValueId v : op.accumulate) shapes.accumulate.push_back(v != kNone);
  return shapes;
}

bool runs(const Plan& plan, OpId id) {
  const Op& op = plan.program.op(id);
  if (op.kind->is_view()) return false;
  for (const ValueId v : op.results) {
    if (!plan.unread[static_cast<size_t>(v)]) return true;
  }
  return changes_state(plan.program, op);
}

Cost Plan::cost(Phase phase) const {
  Cost total;
  for (OpId id : program.list(phase)) {
    const Op& op = program.op(id);
    if (op.kind->is_view()) continue;
    const OpShapes shapes = shapes_of(program, op);
    const Cost cost = op.kind->cost(shapes.context());
    total.flops += cost.flops;
    total.bytes += cost.bytes;
    total.wire_bytes += cost.wire_bytes;
  }
  return total;
}

}  // namespace megatron
