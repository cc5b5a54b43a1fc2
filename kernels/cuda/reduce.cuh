// Sums and largest values over warps and blocks, in a fixed order. Included through cuda_types.cuh.
#pragma once

#include <cuda_runtime.h>

namespace megatron::cuda {

constexpr int kWarp = 32;
constexpr unsigned kFullWarp = 0xffffffffu;

template <typename A>
__device__ __forceinline__ A warp_sum(A v) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) v += __shfl_xor_sync(kFullWarp, v, step);
  return v;
}
template <typename A>
__device__ __forceinline__ A warp_max(A v) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const A other = __shfl_xor_sync(kFullWarp, v, step);
    v = other > v ? other : v;
  }
  return v;
}

/// Sum over a block of kThreads (a multiple of 32, at most 1024), given to all its threads. All must call it; a call
/// waits at its start, so calls may follow each other.
template <int kThreads, typename A>
__device__ __forceinline__ A block_sum(A v) {
  static_assert(kThreads % kWarp == 0 && kThreads <= 1024);
  v = warp_sum(v);
  if constexpr (kThreads > kWarp) {
    __shared__ A partial[kThreads / kWarp];
    __syncthreads();
    if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = v;
    __syncthreads();
    v = threadIdx.x % kWarp < kThreads / kWarp ? partial[threadIdx.x % kWarp] : A(0);
    v = warp_sum(v);
  }
  return v;
}
/// Largest value over a block; as block_sum.
template <int kThreads, typename A>
__device__ __forceinline__ A block_max(A v) {
  static_assert(kThreads % kWarp == 0 && kThreads <= 1024);
  v = warp_max(v);
  if constexpr (kThreads > kWarp) {
    __shared__ A partial[kThreads / kWarp];
    __syncthreads();
    if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = v;
    __syncthreads();
    v = partial[threadIdx.x % kWarp % (kThreads / kWarp)];
    v = warp_max(v);
  }
  return v;
}

}  // namespace megatron::cuda
