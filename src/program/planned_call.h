// Collectives as the plan knows them: what an operation will call, before there is memory or a communicator.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "program/comm.h"
#include "program/plan.h"

namespace megatron {

/// A CommCall without memory, which owns its counts. Sizes are elements.
struct PlannedCall {
  CommOp op = CommOp::kBarrier;
  Reduction reduction = Reduction::kSum;
  DType dtype = DType::kF32;
  int64_t sent = 0, received = 0;  ///< of source and target; 0 on a side that an exchange lacks
  std::vector<int64_t> counts;     ///< of the blocks: kAllGather, kReduceScatter; to and from each rank: kAllToAll
  int to = -1, from = -1;

  bool operator==(const PlannedCall&) const = default;

  static PlannedCall all_reduce(DType dtype, int64_t count, Reduction reduction = Reduction::kSum);
  static PlannedCall all_gather(DType dtype, std::vector<int64_t> counts, int rank);
  static PlannedCall reduce_scatter(DType dtype, std::vector<int64_t> counts, int rank);
  /// Equal blocks.
  static PlannedCall all_to_all(DType dtype, int64_t count, int ranks);
  static PlannedCall exchange(DType dtype, int64_t sent, int to, int64_t received, int from);
};

/// The same as communicators see it; its counts are those of `call`, which must outlive it.
CommCall to_call(const PlannedCall& call);
std::string describe(const PlannedCall& call);

/// Bytes that each of `ranks` ranks sends, on average, when the collective runs as a ring: of an all_reduce of b bytes
/// 2 b (ranks - 1) / ranks, of gathering, scattering and exchanging blocks of b bytes altogether b (ranks - 1) / ranks
/// (Thakur et al., IJHPCA 19, 2005). Of a transfer what this rank sends.
double wire_bytes(const CommCall& call, int ranks);
double wire_bytes(const PlannedCall& call, int ranks);

/// The collectives of one operation of a plan.
struct OpCalls {
  OpId op = kNone;
  std::vector<PlannedCall> calls;
};

/// Of a phase, in the order of the list: what every run of it calls, and where `edge` operations run too.
std::vector<OpCalls> planned_calls(const Plan& plan, Phase phase);
/// Of one operation, on the rank that `mesh` names instead of the plan's own: sizes are those of its blocks.
std::vector<PlannedCall> planned_calls(const Plan& plan, OpId id, const Mesh& mesh);

}  // namespace megatron
