#include "program/planned_call.h"

#include <utility>

#include "base/check.h"

namespace megatron {
namespace {

int64_t total(const std::vector<int64_t>& counts) {
  int64_t sum = 0;
  for (const int64_t count : counts) sum += count;
  return sum;
}

Tensor row(DType dtype, int64_t count) {
  return make_tensor(nullptr, dtype, {count});
}

}  // namespace

PlannedCall PlannedCall::all_reduce(DType dtype, int64_t count, Reduction reduction) {
  PlannedCall call;
  call.op = CommOp::kAllReduce;
  call.reduction = reduction;
  call.dtype = dtype;
  call.sent = call.received = count;
  return call;
}

PlannedCall PlannedCall::all_gather(DType dtype, std::vector<int64_t> counts, int rank) {
  PlannedCall call;
  call.op = CommOp::kAllGather;
  call.dtype = dtype;
  call.sent = counts.at(static_cast<size_t>(rank));
  call.received = total(counts);
  call.counts = std::move(counts);
  return call;
}

PlannedCall PlannedCall::reduce_scatter(DType dtype, std::vector<int64_t> counts, int rank) {
  PlannedCall call = all_gather(dtype, std::move(counts), rank);
  call.op = CommOp::kReduceScatter;
  std::swap(call.sent, call.received);
  return call;
}

PlannedCall PlannedCall::all_to_all(DType dtype, int64_t count, int ranks) {
  PlannedCall call;
  call.op = CommOp::kAllToAll;
  call.dtype = dtype;
  call.sent = call.received = count;
  call.counts.assign(static_cast<size_t>(ranks), div_exact(count, static_cast<int64_t>(ranks)));
  return call;
}

PlannedCall PlannedCall::exchange(DType dtype, int64_t sent, int to, int64_t received, int from) {
  PlannedCall call;
  call.op = CommOp::kExchange;
  call.dtype = dtype;
  call.sent = sent;
  call.received = received;
  call.to = to;
  call.from = from;
  return call;
}

CommCall to_call(const PlannedCall& call) {
  CommCall result;
  result.op = call.op;
  result.reduction = call.reduction;
  result.source = row(call.dtype, call.sent);
  result.target = row(call.dtype, call.received);
  if (call.op != CommOp::kAllGather) result.send_counts = call.counts.data();
  if (call.op != CommOp::kReduceScatter) result.receive_counts = call.counts.data();
  result.to = call.to;
  result.from = call.from;
  return result;
}

std::string describe(const PlannedCall& call) {
  return describe(to_call(call));
}

double wire_bytes(const CommCall& call, int ranks) {
  MEGATRON_CHECK(ranks >= 1, "a communicator has ranks");
  const double share = static_cast<double>(ranks - 1) / ranks;
  switch (call.op) {
    case CommOp::kAllReduce:
      return 2 * share * static_cast<double>(call.source.bytes());
    case CommOp::kAllGather:
      return share * static_cast<double>(call.target.bytes());
    case CommOp::kReduceScatter:
    case CommOp::kAllToAll:
    case CommOp::kBroadcast:
      return share * static_cast<double>(call.source.bytes());
    case CommOp::kExchange:
      return call.to < 0 ? 0 : static_cast<double>(call.source.bytes());
    case CommOp::kBarrier:
      return 0;
  }
  return 0;
}

double wire_bytes(const PlannedCall& call, int ranks) {
  return wire_bytes(to_call(call), ranks);
}

std::vector<OpCalls> planned_calls(const Plan& plan, Phase phase) {
  std::vector<OpCalls> all;
  for (const OpId id : plan.program.list(phase)) {
    if (plan.program.op(id).kind->comm_axis().empty() || !runs(plan, id)) continue;
    std::vector<PlannedCall> calls = planned_calls(plan, id, plan.program.mesh);
    if (!calls.empty()) all.push_back({id, std::move(calls)});
  }
  return all;
}

std::vector<PlannedCall> planned_calls(const Plan& plan, OpId id, const Mesh& mesh) {
  const Op& op = plan.program.op(id);
  OpShapes shapes = shapes_of(plan.program, op, mesh);
  for (const ValueId v : op.results) shapes.unread.push_back(plan.unread[static_cast<size_t>(v)] ? 1 : 0);
  return op.kind->calls(shapes.context(), plan.options.device);
}

}  // namespace megatron
