// Loops over strided tensors on the CPU.
#pragma once

#include "tensor/tensor.h"

namespace megatron {

/// Calls body(offset_a, offset_b, length) for every innermost row of two tensors of one shape; offsets in elements.
/// Innermost strides must be 1.
template <typename Body>
void for_each_row(const Dims& shape, const Dims& strides_a, const Dims& strides_b, Body&& body) {
  if (shape.numel() == 0) return;
  if (shape.rank() == 0) {
    body(int64_t{0}, int64_t{0}, int64_t{1});
    return;
  }
  const int last = shape.rank() - 1;
  Dims index = shape;
  for (int d = 0; d < shape.rank(); ++d) index[d] = 0;
  for (;;) {
    int64_t a = 0, b = 0;
    for (int d = 0; d < last; ++d) {
      a += index[d] * strides_a[d];
      b += index[d] * strides_b[d];
    }
    body(a, b, shape[last]);
    int d = last - 1;
    while (d >= 0 && ++index[d] == shape[d]) index[d--] = 0;
    if (d < 0) return;
  }
}

/// Copies elements (any dtype, equal on both sides).
void copy_strided(const Tensor& from, const Tensor& to);

}  // namespace megatron
