// Do all ranks of a communicator call the same collective? A program whose ranks disagree would hang, or mix up data.
#pragma once

#include <string>
#include <vector>

#include "program/comm.h"

namespace megatron {

/// What must be equal on all ranks for their calls to be one collective, and from one rank to another.
struct CallKey {
  CommOp op = CommOp::kBarrier;
  Reduction reduction = Reduction::kSum;
  DType dtype = DType::kF32;
  int root = -1;
  int64_t count = 0;    ///< of the whole: equal on all ranks
  int64_t between = 0;  ///< elements that this rank sends to the other one, or expects from it; kAllToAll only

  bool operator==(const CallKey&) const = default;
};

/// `to` (or `from`): the rank that `between` speaks of.
CallKey sending_key(const CommCall& call, int to);
CallKey receiving_key(const CommCall& call, int from);

/// Two members of a communicator whose calls are not one collective, and where the numbers are: "" when calls[r] of all
/// members r agree (then a == b).
struct CallMismatch {
  size_t a = 0, b = 0;
  std::string numbers;
  explicit operator bool() const { return a != b; }
};
CallMismatch compare_calls(const std::vector<CommCall>& calls);

/// "tp: the ranks call different collectives: rank 0: ..., rank 1: ...", or "" when calls[r] of all ranks r agree.
/// The same text on every rank.
std::string find_mismatch(const std::vector<CommCall>& calls, const std::string& name);

/// The same for a transfer from one rank to another: type and count.
std::string find_transfer_mismatch(const Tensor& sent, const Tensor& wanted, int from, int to, const std::string& name);

}  // namespace megatron
