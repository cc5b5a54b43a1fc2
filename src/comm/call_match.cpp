#include "comm/call_match.h"

#include "base/strings.h"

namespace megatron {
namespace {

CallKey key_of(const CommCall& c) {
  CallKey key;
  key.op = c.op;
  if (c.op == CommOp::kBarrier) return key;
  key.dtype = c.source.dtype;
  if (c.op == CommOp::kAllReduce || c.op == CommOp::kReduceScatter) key.reduction = c.reduction;
  if (c.op == CommOp::kBroadcast) key.root = c.from;
  if (c.op == CommOp::kAllGather) key.count = c.target.numel();
  if (c.op == CommOp::kAllReduce || c.op == CommOp::kReduceScatter || c.op == CommOp::kBroadcast) {
    key.count = c.source.numel();
  }
  return key;
}

}  // namespace

CallKey sending_key(const CommCall& call, int to) {
  CallKey key = key_of(call);
  if (call.op == CommOp::kAllToAll) key.between = call.send_counts[to];
  return key;
}

CallKey receiving_key(const CommCall& call, int from) {
  CallKey key = key_of(call);
  if (call.op == CommOp::kAllToAll) key.between = call.receive_counts[from];
  return key;
}

CallMismatch compare_calls(const std::vector<CommCall>& calls) {
  for (size_t r = 1; r < calls.size(); ++r) {
    if (key_of(calls[r]) != key_of(calls[0])) return {0, r, ""};
  }
  const CommOp op = calls.at(0).op;
  if (op != CommOp::kAllToAll && op != CommOp::kAllGather && op != CommOp::kReduceScatter) return {};
  for (size_t a = 0; a < calls.size(); ++a) {
    for (size_t b = 0; b < calls.size(); ++b) {
      if (op == CommOp::kAllToAll) {
        const int64_t sent = calls[a].send_counts[b], wanted = calls[b].receive_counts[a];
        if (sent != wanted) return {a, b, str_cat(" (sent ", sent, ", expected ", wanted, ")")};
        continue;
      }
      const bool gather = op == CommOp::kAllGather;
      const int64_t here = gather ? calls[0].receive_counts[b] : calls[0].send_counts[b];
      const int64_t there = gather ? calls[a].receive_counts[b] : calls[a].send_counts[b];
      if (here != there) return {0, a, str_cat(" (block ", b, " has ", here, " elements and ", there, ")")};
    }
  }
  return {};
}

std::string find_mismatch(const std::vector<CommCall>& calls, const std::string& name) {
  const CallMismatch found = compare_calls(calls);
  if (!found) return "";
  return str_cat("communicator ", name, ": the ranks call different collectives: rank ", found.a, ": ",
                 describe(calls[found.a]), "; rank ", found.b, ": ", describe(calls[found.b]), found.numbers);
}

std::string find_transfer_mismatch(const Tensor& sent, const Tensor& wanted, int from, int to,
                                   const std::string& name) {
  if (sent.dtype == wanted.dtype && sent.numel() == wanted.numel()) return "";
  return str_cat("communicator ", name, ": rank ", from, " sends ", sent.numel(), " ", name_of(sent.dtype), " to rank ",
                 to, ", which expects ", wanted.numel(), " ", name_of(wanted.dtype));
}

}  // namespace megatron
