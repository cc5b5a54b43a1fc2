// Sums and maxima over the ranks' copies of host values, in rank order: what makes the host backends deterministic and
// equal to each other bit by bit.
#pragma once

#include <vector>

#include "program/comm.h"

namespace megatron {

/// out[i] = reduction over r of sources[r][i], r from 0 up, kept in the accumulator type (integers: their own type).
/// `out` may be one of the sources. A maximum with a NaN among its operands is NaN.
void reduce_in_rank_order(Reduction reduction, DType dtype, const std::vector<const void*>& sources, void* out,
                          int64_t count);

}  // namespace megatron
