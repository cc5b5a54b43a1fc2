// What the CUDA kernels share: element types (tensor/cuda_types.cuh), sums in a fixed order, addressing rows of strided
// tensors, packs of elements, and launch sizes. Included by device code only.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <string>
#include <type_traits>

#include "base/check.h"
#include "device/cuda_check.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/rows.cuh"
#include "tensor/cuda_types.cuh"
#include "tensor/tensor.h"

namespace megatron::cuda {

/// Device pointer of a tensor, whose dtype must be T's (integers: as wide as T); nullptr when the tensor is absent.
template <typename T>
T* data_of(const Tensor& t) {
  return t.data == nullptr ? nullptr : t.as<T>();
}

inline cudaStream_t stream_of(void* stream) {
  return static_cast<cudaStream_t>(stream);
}

/// numerator / denominator of numbers that are not negative: in 32 bits where they fit, which is far cheaper.
__device__ __forceinline__ int64_t divide(int64_t numerator, int64_t denominator) {
  if (((numerator | denominator) >> 32) == 0) {
    return static_cast<uint32_t>(numerator) / static_cast<uint32_t>(denominator);
  }
  return numerator / denominator;
}

/// Division of numbers below 2^31 by one that is known at the launch: a multiplication and a shift.
struct Divisor {
  uint32_t value = 1, magic = 1, shift = 0;

  Divisor() = default;
  explicit Divisor(int64_t divisor) : value(static_cast<uint32_t>(divisor)) {
    MEGATRON_CHECK(divisor > 0 && divisor < (int64_t{1} << 31), "a dimension is larger than 2^31");
    while ((uint64_t{1} << shift) < value) ++shift;
    magic = static_cast<uint32_t>((((uint64_t{1} << shift) - value) << 32) / value + 1);
  }
  __device__ __forceinline__ uint32_t divide(uint32_t numerator) const {
    return (__umulhi(numerator, magic) + numerator) >> shift;
  }
};

// ---- vector access

/// values[i] = p[i], converted.
template <int N, typename T, typename A>
__device__ __forceinline__ void load_values(const T* p, A (&values)[N]) {
  if constexpr (sizeof(T) == 2 && N % 2 == 0) {
    const auto pairs = load_pack<uint32_t, N / 2>(reinterpret_cast<const uint32_t*>(p));
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = static_cast<A>(half_of_pair<T>(pairs.v[i / 2], i % 2));
  } else {
    const Pack<T, N> r = load_pack<T, N>(p);
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = to_accumulator<A>(r.v[i]);
  }
}
template <int N, typename T, typename A>
__device__ __forceinline__ void store_values(T* p, const A (&values)[N]) {
  if constexpr (sizeof(T) == 2 && N % 2 == 0) {
    Pack<uint32_t, N / 2> pairs;
#pragma unroll
    for (int i = 0; i < N; i += 2)
      pairs.v[i / 2] = pair_of<T>(static_cast<float>(values[i]), static_cast<float>(values[i + 1]));
    store_pack<uint32_t, N / 2>(reinterpret_cast<uint32_t*>(p), pairs);
  } else {
    Pack<T, N> r;
#pragma unroll
    for (int i = 0; i < N; ++i) r.v[i] = from_accumulator<T>(values[i]);
    store_pack<T, N>(p, r);
  }
}

/// Can rows of `t` be walked in packs of `n` elements? An absent tensor can.
inline bool allows_packs(const Tensor& t, int n) {
  if (t.data == nullptr || t.shape.rank() == 0) return t.data == nullptr || n == 1;
  const size_t element = static_cast<size_t>(size_of(t.dtype));
  if (!is_aligned(t.data, pack_alignment(element * static_cast<size_t>(n))) || t.shape.back() % n != 0) return false;
  for (int i = 0; i + 1 < t.shape.rank(); ++i) {
    if (t.shape[i] > 1 && t.strides[i] % n != 0) return false;
  }
  return t.shape.back() <= 1 || t.strides[t.shape.rank() - 1] == 1;
}

// ---- launches

/// Blocks for `work` items at `per_block` each, at most `limit`: kernels that give a limit loop with a stride.
inline unsigned grid_size(int64_t work, int64_t per_block, int64_t limit = 0x7fffffffll) {
  const int64_t blocks = div_ceil(work, per_block);
  if (limit == 0x7fffffffll) MEGATRON_CHECK(blocks <= limit, "too many blocks");
  return static_cast<unsigned>(blocks < limit ? blocks : limit);
}

/// Blocks that keep a large GPU (132 to 148 multiprocessors) busy in loops with a stride. A constant, so that sums do
/// not depend on the device.
constexpr int64_t kFullGrid = 148 * 8;

}  // namespace megatron::cuda
