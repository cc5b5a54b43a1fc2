// Cases to time on a GPU. The speed cases of the tables are cut for a CPU: there they take a launch's time.
#pragma once

#include <vector>

#include "kernels/harness.h"

namespace megatron {

/// One entry per operation that takes time, in alphabetical order: sizes of a model with hidden size 4096, of 8192
/// tokens.
std::vector<OpCases> gpu_speed_cases();

/// The same and further sizes, each as models run it, so that the time of most operations of a model lies between
/// measured ones: products of 2048 and of 8192 rows over widths from 1024 to 28672, and what tensor-parallel ranks
/// leave of a layer.
std::vector<OpCases> gpu_machine_cases();

}  // namespace megatron
