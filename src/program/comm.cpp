#include "program/comm.h"

#include "base/check.h"
#include "base/strings.h"

namespace megatron {
namespace {

std::string elements(const Tensor& t) {
  return str_cat(t.numel(), " ", name_of(t.dtype));
}

int64_t total(const int64_t* counts, int ranks) {
  int64_t sum = 0;
  for (int r = 0; r < ranks; ++r) {
    MEGATRON_CHECK(counts[r] >= 0, "a count is negative");
    sum += counts[r];
  }
  return sum;
}

/// What the counts say must be what the tensors are.
void check_counts(const CommCall& c, int rank, int size) {
  const int64_t sent = c.source.numel(), got = c.target.numel();
  const std::string what = describe(c);
  switch (c.op) {
    case CommOp::kAllReduce:
    case CommOp::kBroadcast:
      MEGATRON_CHECK(sent == got, what);
      break;
    case CommOp::kAllGather:
      MEGATRON_CHECK(sent == c.receive_counts[rank] && got == total(c.receive_counts, size), what);
      break;
    case CommOp::kReduceScatter:
      MEGATRON_CHECK(got == c.send_counts[rank] && sent == total(c.send_counts, size), what);
      break;
    case CommOp::kAllToAll:
      MEGATRON_CHECK(sent == total(c.send_counts, size) && got == total(c.receive_counts, size), what);
      MEGATRON_CHECK(c.send_counts[rank] == c.receive_counts[rank], what);
      break;
    case CommOp::kExchange:
    case CommOp::kBarrier:
      break;
  }
}

}  // namespace

std::string describe(const CommCall& c) {
  const std::string reduction = c.reduction == Reduction::kMax ? "max" : "sum";
  switch (c.op) {
    case CommOp::kAllReduce:
      return str_cat("all_reduce(", reduction, ") of ", elements(c.source));
    case CommOp::kAllGather:
      return str_cat("all_gather to ", elements(c.target));
    case CommOp::kReduceScatter:
      return str_cat("reduce_scatter(", reduction, ") of ", elements(c.source));
    case CommOp::kAllToAll:
      return str_cat("all_to_all of ", elements(c.source), ", getting ", c.target.numel());
    case CommOp::kBroadcast:
      return str_cat("broadcast of ", elements(c.source), " from ", c.from);
    case CommOp::kExchange:
      if (c.from < 0) return str_cat("send of ", elements(c.source), " to ", c.to);
      if (c.to < 0) return str_cat("receive of ", elements(c.target), " from ", c.from);
      return str_cat("exchange of ", elements(c.source), " to ", c.to, ", ", elements(c.target), " from ", c.from);
    case CommOp::kBarrier:
      return "barrier";
  }
  return "?";
}

void Comm::check(const CommCall& c) const {
  const bool sends = c.op != CommOp::kBarrier && (c.op != CommOp::kExchange || c.to >= 0);
  const bool receives = c.op != CommOp::kBarrier && (c.op != CommOp::kExchange || c.from >= 0);
  MEGATRON_CHECK(!sends || c.source.contiguous(), "collectives take contiguous tensors: " + describe(c));
  MEGATRON_CHECK(!receives || c.target.contiguous(), "collectives take contiguous tensors: " + describe(c));
  MEGATRON_CHECK(!sends || !receives || c.op == CommOp::kExchange || c.source.dtype == c.target.dtype, describe(c));
  MEGATRON_CHECK(c.to < size() && c.from < size(), str_cat(describe(c), ": ", name(), " has ", size(), " ranks"));
  check_counts(c, rank(), size());
}

void Comm::checked_run(const CommCall& c) {
  check(c);
  run(c);
}

void Comm::run_group(std::span<const CommCall> calls) {
  for (const CommCall& call : calls) run(call);
}

void Comm::run_checked(std::span<const CommCall> calls) {
  for (const CommCall& call : calls) check(call);
  run_group(calls);
}

void Comm::all_reduce(const Tensor& source, const Tensor& target, Reduction reduction, void* stream) {
  CommCall call;
  call.op = CommOp::kAllReduce;
  call.reduction = reduction;
  call.source = source;
  call.target = target;
  call.stream = stream;
  checked_run(call);
}

void Comm::all_gather(const Tensor& source, const Tensor& target, const int64_t* counts, void* stream) {
  CommCall call;
  call.op = CommOp::kAllGather;
  call.source = source;
  call.target = target;
  call.receive_counts = counts;
  call.stream = stream;
  checked_run(call);
}

void Comm::reduce_scatter(const Tensor& source, const Tensor& target, const int64_t* counts, void* stream,
                          Reduction reduction) {
  CommCall call;
  call.op = CommOp::kReduceScatter;
  call.reduction = reduction;
  call.source = source;
  call.target = target;
  call.send_counts = counts;
  call.stream = stream;
  checked_run(call);
}

void Comm::all_to_all(const Tensor& source, const Tensor& target, const int64_t* send_counts,
                      const int64_t* receive_counts, void* stream) {
  CommCall call;
  call.op = CommOp::kAllToAll;
  call.source = source;
  call.target = target;
  call.send_counts = send_counts;
  call.receive_counts = receive_counts;
  call.stream = stream;
  checked_run(call);
}

void Comm::broadcast(const Tensor& values, int root, void* stream) {
  MEGATRON_CHECK(root >= 0, "a broadcast has a root");
  CommCall call;
  call.op = CommOp::kBroadcast;
  call.source = call.target = values;
  call.from = root;
  call.stream = stream;
  checked_run(call);
}

void Comm::exchange(const Tensor& source, int to, const Tensor& target, int from, void* stream) {
  CommCall call;
  call.op = CommOp::kExchange;
  call.source = source;
  call.target = target;
  call.to = to;
  call.from = from;
  call.stream = stream;
  checked_run(call);
}

void Comm::send(const Tensor& values, int to, void* stream) {
  exchange(values, to, {}, -1, stream);
}

void Comm::receive(const Tensor& values, int from, void* stream) {
  exchange({}, -1, values, from, stream);
}

void Comm::barrier(void* stream) {
  CommCall call;
  call.stream = stream;
  checked_run(call);
}

}  // namespace megatron
