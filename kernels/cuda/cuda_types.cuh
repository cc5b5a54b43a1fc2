// What the CUDA kernels share: element types, conversion to and from the accumulator, 16-byte access, sums in a fixed
// order, addressing rows of strided tensors, and launch sizes. Included by .cu files only.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <string>
#include <type_traits>

#include "base/check.h"
#include "device/cuda_check.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/rows.cuh"
#include "tensor/tensor.h"

namespace megatron {

/// The device's 16-bit types have the bits of the host's storage types.
template <>
struct dtype_of<__nv_bfloat16> {
  static constexpr DType value = DType::kBF16;
  using Accumulator = float;
};
template <>
struct dtype_of<__half> {
  static constexpr DType value = DType::kF16;
  using Accumulator = float;
};

}  // namespace megatron

namespace megatron::cuda {

using BF16 = __nv_bfloat16;
using F16 = __half;
using megatron::Accumulator;  // double for fp64, else float

/// TypeOf<T>::kDType is the DType of a floating device type.
template <typename T>
struct TypeOf {
  static constexpr DType kDType = dtype_of<T>::value;
};

/// Names a type to a generic lambda: `typename decltype(tag)::type`.
template <typename T>
struct Tag {
  using type = T;
};

/// Calls body(Tag<T>) with the device type of `dtype` (fp64, fp32, bf16 or fp16):
/// `dispatch_cuda("rmsnorm", x.dtype, [&](auto tag) { using T = typename decltype(tag)::type; ... });`
template <typename Body>
decltype(auto) dispatch_cuda(const char* what, DType dtype, Body&& body) {
  switch (dtype) {
    case DType::kF64:
      return body(Tag<double>{});
    case DType::kF32:
      return body(Tag<float>{});
    case DType::kBF16:
      return body(Tag<BF16>{});
    case DType::kF16:
      return body(Tag<F16>{});
    default:
      fail_dtype(what, dtype);
  }
}

/// Device pointer of a tensor, whose dtype must be T's (integers: as wide as T); nullptr when the tensor is absent.
template <typename T>
T* data_of(const Tensor& t) {
  return t.data == nullptr ? nullptr : t.as<T>();
}

inline cudaStream_t stream_of(void* stream) {
  return static_cast<cudaStream_t>(stream);
}

// ---- conversion

template <typename A = float>
__device__ __forceinline__ A to_accumulator(double v) {
  return static_cast<A>(v);
}
template <typename A = float>
__device__ __forceinline__ A to_accumulator(float v) {
  return static_cast<A>(v);
}
template <typename A = float>
__device__ __forceinline__ A to_accumulator(BF16 v) {
  return static_cast<A>(__bfloat162float(v));
}
template <typename A = float>
__device__ __forceinline__ A to_accumulator(F16 v) {
  return static_cast<A>(__half2float(v));
}

/// Rounds to nearest even.
template <typename T, typename A>
__device__ __forceinline__ T from_accumulator(A v) {
  if constexpr (std::is_same_v<T, BF16>) {
    return __float2bfloat16_rn(static_cast<float>(v));
  } else if constexpr (std::is_same_v<T, F16>) {
    return __float2half_rn(static_cast<float>(v));
  } else {
    return static_cast<T>(v);
  }
}

/// numerator / denominator of numbers that are not negative: in 32 bits where they fit, which is far cheaper.
__device__ __forceinline__ int64_t divide(int64_t numerator, int64_t denominator) {
  if (((numerator | denominator) >> 32) == 0) {
    return static_cast<uint32_t>(numerator) / static_cast<uint32_t>(denominator);
  }
  return numerator / denominator;
}

// ---- vector access

/// Elements of T in 16 bytes.
template <typename T>
constexpr int kPerVector = 16 / static_cast<int>(sizeof(T));

constexpr size_t pack_alignment(size_t bytes) {
  return bytes < 16 ? bytes : 16;
}

/// N elements that are loaded and stored in pieces of 16 bytes (or all at once when smaller). N is a power of two.
template <typename T, int N>
struct alignas(pack_alignment(sizeof(T) * N)) Pack {
  T v[N];
};

/// p must be aligned to alignof(Pack<T, N>).
template <typename T, int N>
__device__ __forceinline__ Pack<T, N> load_pack(const T* p) {
  Pack<T, N> r;
  if constexpr (sizeof(r) > 16) {
    constexpr int kPieces = static_cast<int>(sizeof(r) / 16);
    const uint4* from = reinterpret_cast<const uint4*>(p);
    uint4* to = reinterpret_cast<uint4*>(&r);
#pragma unroll
    for (int i = 0; i < kPieces; ++i) to[i] = from[i];
  } else {
    r = *reinterpret_cast<const Pack<T, N>*>(p);
  }
  return r;
}
template <typename T, int N>
__device__ __forceinline__ void store_pack(T* p, const Pack<T, N>& r) {
  if constexpr (sizeof(r) > 16) {
    constexpr int kPieces = static_cast<int>(sizeof(r) / 16);
    const uint4* from = reinterpret_cast<const uint4*>(&r);
    uint4* to = reinterpret_cast<uint4*>(p);
#pragma unroll
    for (int i = 0; i < kPieces; ++i) to[i] = from[i];
  } else {
    *reinterpret_cast<Pack<T, N>*>(p) = r;
  }
}

/// values[i] = p[i], converted.
template <int N, typename T, typename A>
__device__ __forceinline__ void load_values(const T* p, A (&values)[N]) {
  const Pack<T, N> r = load_pack<T, N>(p);
#pragma unroll
  for (int i = 0; i < N; ++i) values[i] = to_accumulator<A>(r.v[i]);
}
template <int N, typename T, typename A>
__device__ __forceinline__ void store_values(T* p, const A (&values)[N]) {
  Pack<T, N> r;
#pragma unroll
  for (int i = 0; i < N; ++i) r.v[i] = from_accumulator<T>(values[i]);
  store_pack<T, N>(p, r);
}

inline bool is_aligned(const void* p, size_t bytes) {
  return reinterpret_cast<uintptr_t>(p) % bytes == 0;
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
