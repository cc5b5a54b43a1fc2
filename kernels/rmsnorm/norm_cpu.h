// What the CPU kernels of both norms share. Only their .cpp files include it.
#pragma once

#include <algorithm>
#include <type_traits>

#include "kernels/common.h"

namespace megatron::norm_cpu {

constexpr int64_t kGradientBlocks = 64;

inline int64_t row_count(const Tensor& x) {
  return product(x.shape, 0, x.shape.rank() - 1);
}

/// Rows whose parameter gradients one block sums; depends on the shape only.
inline int64_t gradient_block_rows(int64_t rows) {
  return std::max<int64_t>(16, div_ceil(rows, kGradientBlocks));
}

/// The pairs that occur: x and y of one type, or a fp32 residual stream with 16-bit y.
template <typename Body>
void dispatch_pair(const char* what, DType x, DType y, Body&& body) {
  dispatch_floating(what, y, [&](auto type) {
    using TY = decltype(type);
    if (x == y) return body(TY{}, TY{});
    if constexpr (sizeof(TY) == 2) {
      if (x == DType::kF32) return body(float{}, TY{});
    }
    fail_dtype(what, x);
  });
}

/// target[j] (+)= the sum of the blocks' partial sums, in block order.
template <typename A>
void combine(const A* partial, int64_t blocks, int64_t stride, int64_t n, A* target, bool add) {
  for (int64_t j = 0; j < n; ++j) {
    A sum = add ? target[j] : A(0);
    for (int64_t b = 0; b < blocks; ++b) sum += partial[b * stride + j];
    target[j] = sum;
  }
}

/// Stores dx = value (+ dsum) (+ earlier dx) for one row.
template <typename T, typename A, typename Value>
void store_gradient(int64_t n, T* dx, const T* dsum, bool add, Value&& value) {
  for (int64_t i = 0; i < n; ++i) {
    A v = value(i);
    if (dsum) v += static_cast<A>(dsum[i]);
    if (add) v += static_cast<A>(dx[i]);
    dx[i] = T(v);
  }
}

}  // namespace megatron::norm_cpu
