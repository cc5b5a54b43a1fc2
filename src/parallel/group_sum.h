// Sums over ranks that run different programs: stages of a pipeline. The group is no axis of the program's mesh, so
// placements say nothing of it; the ranks of the group must emit the same sums in the same order.
#pragma once

#include <string>

#include "program/trace.h"

namespace megatron {

/// The sum of x over the ranks of communicator `group`, each of which holds another x of the same type.
Value group_sum(Trace& t, Value x, const std::string& group);

/// The same in the memory of `state`; where that is partial over an axis the sum is.
void group_sum_in_place(Trace& t, Value state, const std::string& group);

}  // namespace megatron
