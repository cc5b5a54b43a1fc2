// Where a step spends its time, operation by operation.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "program/executor.h"

namespace megatron {

/// All operations of one kind in one phase, of one run of that phase.
struct OpTime {
  std::string op;     ///< kind
  std::string phase;  ///< "F", "B", "W", "begin" or "update"
  int64_t calls = 0;
  double seconds = 0;           ///< between two events around each call: launch gaps on a GPU are inside
  double flops = 0, bytes = 0;  ///< that the kinds declare
  bool per_micro_batch = true;
};

/// Runs the phases of `executor` operation by operation, `repeats` times, and gives the least time of each operation,
/// summed by kind; longest first. `label`: phase name, or "" for F, B, W.
std::vector<OpTime> time_operations(Executor& executor, const std::string& label, int repeats);

}  // namespace megatron
