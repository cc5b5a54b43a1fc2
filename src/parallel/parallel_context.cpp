#include "parallel/parallel_context.h"

#include "base/strings.h"
#include "comm/collectives.h"
#include "comm/context_collectives.h"

namespace megatron {

Placement ParallelContext::tp_sharded(int dim) const {
  Placement placement = replicated();
  const int tp = mesh_.find("tp");
  if (tp >= 0) placement[static_cast<size_t>(tp)] = AxisPlacement::S(dim);
  return placement;
}

int64_t ParallelContext::context_size() const {
  int64_t size = 1;
  for (const MeshAxis& axis : mesh_.axes) {
    if (starts_with(axis.name, "cp")) size *= axis.size;
  }
  return size;
}

int64_t ParallelContext::context_rank() const {
  int64_t rank = 0, stride = 1;
  for (const MeshAxis& axis : mesh_.axes) {  // the first is the inner one
    if (!starts_with(axis.name, "cp")) continue;
    rank += stride * axis.coordinate;
    stride *= axis.size;
  }
  return rank;
}

ContextExchange ParallelContext::context_exchange() const {
  ContextExchange exchange;
  exchange.gathers = cp_comm_type_ == "all_gather";
  if (mesh_.find("cp_a2a") >= 0) exchange.heads_axis = "cp_a2a";
  if (mesh_.find("cp_p2p") >= 0) exchange.keys_axis = "cp_p2p";
  if (mesh_.find("cp") >= 0) (cp_comm_type_ == "a2a" ? exchange.heads_axis : exchange.keys_axis) = "cp";
  return exchange;
}

Placement ParallelContext::tokens() const {
  Placement placement = replicated();
  const int dp = mesh_.find("dp");
  for (const char* axis : kContextAxes) {
    const int cp = mesh_.find(axis);
    if (cp >= 0) placement[static_cast<size_t>(cp)] = AxisPlacement::S(0);
  }
  if (dp >= 0) placement[static_cast<size_t>(dp)] = AxisPlacement::S(1);
  return placement;
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

Value ParallelContext::gather_sequence(Trace& t, Value x, const std::string& axis) const {
  return all_gather(t, x, axis);
}

std::vector<Value> ParallelContext::pass_on(Trace& t, const std::vector<Value>& values, const std::string& axis) const {
  return ring_shift(t, values, axis, 1);
}

Value ParallelContext::heads_for_sequence(Trace& t, Value x, const std::string& axis) const {
  return megatron::heads_for_sequence(t, x, axis, 2);
}

Value ParallelContext::sequence_for_heads(Trace& t, Value x, const std::string& axis) const {
  return megatron::sequence_for_heads(t, x, axis, 2);
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
