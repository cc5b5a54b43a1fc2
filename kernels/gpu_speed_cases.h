// Cases to time on a GPU. The speed cases of the tables are cut for a CPU: there they take a launch's time.
#pragma once

#include <vector>

#include "kernels/harness.h"

namespace megatron {

/// One entry per operation that takes time, in alphabetical order: sizes of a model with hidden size 4096, of 8192
/// tokens.
std::vector<OpCases> gpu_speed_cases();

}  // namespace megatron
