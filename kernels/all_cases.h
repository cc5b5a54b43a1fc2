// The case tables of all operations.
#pragma once

#include <vector>

#include "kernels/harness.h"

namespace megatron {

/// One entry per operation, in alphabetical order of the names.
std::vector<OpCases> all_op_cases();

}  // namespace megatron
