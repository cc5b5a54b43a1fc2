// What the forward and the backward of both norms share: a row in the registers of the threads that share it, sums over
// those threads, and the choice of a kernel. Included by norm_forward_cuda.cu and norm_backward_cuda.cu.
#pragma once

#include "kernels/cuda/cuda_types.cuh"
#include "kernels/rmsnorm/norm_cuda.h"
#include "kernels/rmsnorm/norm_plan_cuda.h"

namespace megatron::norm {

using namespace cuda;  // NOLINT: device helpers

template <typename TX, typename TY>
constexpr int kPackOf = static_cast<int>(pack_elements(sizeof(TX), sizeof(TY)));

/// Loops over packs are unrolled, so that packs lie in registers, unless the row is too long for them.
template <int kPacks>
constexpr int kUnrolled = kPacks == kLongPacks ? 1 : kPacks;
template <int kPacks>
constexpr int kBlockLimit = kPacks == kLongPacks ? kMaxLongThreads : kMaxThreads;

/// The thread's place: `lane` of the `threads` that share row number `group` of the block.
struct Place {
  int lane, group, threads;

  __device__ __forceinline__ explicit Place(int threads_per_row)
      : lane(static_cast<int>(threadIdx.x) % threads_per_row),
        group(static_cast<int>(threadIdx.x) / threads_per_row),
        threads(threads_per_row) {}
  template <int N>
  __device__ __forceinline__ int column(int k) const {
    return (k * threads + lane) * N;
  }
};

/// N elements, 16-bit ones in pairs: in an array of their own type each would take a whole register.
template <typename T, int N>
struct Held {
  using A = Accumulator<T>;
  static constexpr bool kPairs = sizeof(T) == 2;
  using Word = std::conditional_t<kPairs, uint32_t, T>;
  Pack<Word, kPairs ? N / 2 : N> words;

  __device__ __forceinline__ A get(int i) const {
    if constexpr (kPairs) {
      return half_of_pair<T>(words.v[i / 2], i % 2);
    } else {
      return words.v[i];
    }
  }
  /// Rounds.
  template <typename V>
  __device__ __forceinline__ void set(const V (&values)[N]) {
    if constexpr (kPairs) {
#pragma unroll
      for (int i = 0; i < N; i += 2)
        words.v[i / 2] = pair_of<T>(static_cast<float>(values[i]), static_cast<float>(values[i + 1]));
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i) words.v[i] = static_cast<T>(values[i]);
    }
  }
  /// From `column` on; zeros beyond the end of the row. Not kAligned: one by one.
  template <bool kAligned>
  __device__ __forceinline__ static Held load(const T* row, int column, int n) {
    Held held{};
    if constexpr (kAligned) {
      if (column < n) held.words = *reinterpret_cast<const decltype(words)*>(row + column);
    } else {
      A values[N] = {};
#pragma unroll
      for (int i = 0; i < N; ++i) {
        if (column + i < n) values[i] = to_accumulator<A>(row[column + i]);
      }
      held.set(values);
    }
    return held;
  }
  template <bool kAligned>
  __device__ __forceinline__ void store(T* row, int column, int n) const {
    if constexpr (kAligned) {
      if (column < n) *reinterpret_cast<decltype(words)*>(row + column) = words;
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        if (column + i < n) row[column + i] = from_accumulator<T>(get(i));
      }
    }
  }
};

/// Sums of K numbers over the threads that share a row, given to all of them, in an order that depends on their number
/// only. Every thread of the block calls it, with `turn` 0 and 1 alternating: a call waits once, and the next one
/// writes elsewhere.
template <int K, typename A>
__device__ __forceinline__ void row_sums(A (&v)[K], const Place& place, int turn) {
  for (int step = min(place.threads, kWarp) / 2; step > 0; step /= 2) {
#pragma unroll
    for (int k = 0; k < K; ++k) v[k] += __shfl_xor_sync(kFullWarp, v[k], step);
  }
  if (place.threads <= kWarp) return;
  __shared__ A partial[2][K][kMaxLongThreads / kWarp];
  const int warp = static_cast<int>(threadIdx.x) / kWarp, warps = place.threads / kWarp;
  if (threadIdx.x % kWarp == 0) {
#pragma unroll
    for (int k = 0; k < K; ++k) partial[turn][k][warp] = v[k];
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const A* of_row = partial[turn][k] + place.group * warps;
    v[k] = of_row[0];
    for (int w = 1; w < warps; ++w) v[k] += of_row[w];
  }
}

/// body(Tag<TX>, Tag<TY>, std::bool_constant<kMean>) for the pairs that occur: one type, or a fp32 residual stream with
/// 16-bit y.
template <typename Body>
void dispatch_norm(const char* what, NormKind kind, DType x, DType y, Body&& body) {
  dispatch_cuda(what, y, [&](auto tag) {
    using TY = typename decltype(tag)::type;
    const auto with = [&](auto x_tag) {
      if (kind == NormKind::kLayer) return body(x_tag, tag, std::true_type{});
      return body(x_tag, tag, std::false_type{});
    };
    if (x == y) return with(tag);
    if constexpr (sizeof(TY) == 2) {
      if (x == DType::kF32) return with(Tag<float>{});
    }
    fail_dtype(what, x);
  });
}

}  // namespace megatron::norm
