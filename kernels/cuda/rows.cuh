// Addressing rows of strided tensors on the GPU. Included through cuda_types.cuh.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "base/check.h"
#include "tensor/tensor.h"

namespace megatron::cuda {

/// Where row `row` (index over all dimensions but the innermost) of a tensor begins, in elements. Dimensions that
/// follow each other without a gap are one; a contiguous tensor needs no division.
struct RowOffsets {
  int count = 0;  ///< outer dimensions, innermost of them first
  uint32_t sizes[Dims::kMaxRank];
  int64_t strides[Dims::kMaxRank];

  __device__ __forceinline__ int64_t operator()(int64_t row) const {
    int64_t offset = 0;
    for (int i = 0; i + 1 < count; ++i) {
      int64_t quotient;
      if (row <= 0xffffffffll) {
        quotient = static_cast<uint32_t>(row) / sizes[i];
      } else {
        quotient = row / sizes[i];
      }
      offset += (row - quotient * sizes[i]) * strides[i];
      row = quotient;
    }
    return count == 0 ? 0 : offset + row * strides[count - 1];
  }
};

/// `inner`: dimensions at the end that are not part of the row index. The tensor may be absent.
inline RowOffsets row_offsets(const Tensor& t, int inner = 1) {
  RowOffsets rows;
  if (t.data == nullptr) return rows;
  for (int i = t.shape.rank() - 1 - inner; i >= 0; --i) {
    const int64_t size = t.shape[i];
    if (size == 1) continue;
    MEGATRON_CHECK(size <= 0xffffffffll, "a dimension is larger than 2^32");
    if (rows.count > 0) {
      const int last = rows.count - 1;
      const int64_t merged = size * rows.sizes[last];
      if (t.strides[i] == rows.strides[last] * rows.sizes[last] && merged <= 0xffffffffll) {
        rows.sizes[last] = static_cast<uint32_t>(merged);
        continue;
      }
    }
    rows.sizes[rows.count] = static_cast<uint32_t>(size);
    rows.strides[rows.count++] = t.strides[i];
  }
  return rows;
}

/// Product of the dimensions but the `inner` last: the number of rows.
inline int64_t count_rows(const Tensor& t, int inner = 1) {
  int64_t n = 1;
  for (int i = 0; i < t.shape.rank() - inner; ++i) n *= t.shape[i];
  return n;
}

}  // namespace megatron::cuda
