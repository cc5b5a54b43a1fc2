// The element types of tensors on a GPU: conversion to and from the accumulator, access in pieces of 16 bytes. Included
// by device code only.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "tensor/dtype.h"

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

/// Two 16-bit numbers in a register: with arrays of their own type each of them takes a register, and instructions to
/// get there.
template <typename T>
__device__ __forceinline__ float half_of_pair(uint32_t pair, int which) {
  if constexpr (std::is_same_v<T, BF16>) return __uint_as_float(which == 0 ? pair << 16 : pair & 0xffff0000u);
  return __half2float(__ushort_as_half(static_cast<unsigned short>(pair >> (which * 16))));
}
/// Rounds to nearest even.
template <typename T>
__device__ __forceinline__ uint32_t pair_of(float first, float second) {
  if constexpr (std::is_same_v<T, BF16>) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
    return *reinterpret_cast<const uint32_t*>(&pair);
  } else {
    const __half2 pair = __floats2half2_rn(first, second);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
}

// ---- access

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

inline bool is_aligned(const void* p, size_t bytes) {
  return reinterpret_cast<uintptr_t>(p) % bytes == 0;
}

}  // namespace megatron::cuda
