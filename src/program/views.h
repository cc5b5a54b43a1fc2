// Operations that move no data: other shapes and parts of a value's memory.
#pragma once

#include <vector>

#include "program/trace.h"

namespace megatron {

/// The same elements with other (global) sizes; the number of elements must not change. A sharded dimension must stay
/// the outermost of the group of dimensions it is merged with or split from, and its blocks must stay the same.
Value reshape(Trace& t, Value x, const Dims& shape);

/// Parts of x along dimension `dim` (not sharded): views of sizes[0], sizes[1], ...; their sum must be the whole.
/// The gradient joins the parts' gradients without a copy where the producers can write strided.
std::vector<Value> split(Trace& t, Value x, int dim, const std::vector<int64_t>& sizes);

/// Strides that show memory of shape `from` with `from_strides` under the shape `to`; throws PlacementError where no
/// view can.
Dims reshaped_strides(const Dims& from, const Dims& from_strides, const Dims& to);

}  // namespace megatron
