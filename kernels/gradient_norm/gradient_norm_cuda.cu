#include <algorithm>

#include "kernels/cuda/cuda_types.cuh"
#include "kernels/gradient_norm/gradient_norm.h"

namespace megatron {
namespace {

using namespace cuda;  // NOLINT

constexpr int kThreads = 256;
constexpr int kSumThreads = 1024;
/// Elements that one block sums into one partial sum. Fixed: the order of the sum depends on nothing else.
constexpr int64_t kChunk = 16384;
/// Gradients of one launch; they travel in its arguments.
constexpr int kPerLaunch = 96;
constexpr int kMaxClipSums = 64;

/// Gradients of one type. Block b sums a chunk of gradient g, first_chunk[g] <= b < first_chunk[g + 1].
struct Gradients {
  const void* data[kPerLaunch];
  int64_t elements[kPerLaunch];
  uint32_t first_chunk[kPerLaunch + 1];
  int count = 0;
};

template <typename T>
__device__ __forceinline__ double squared(T v) {
  const double wide = static_cast<double>(to_accumulator<cuda::Accumulator<T>>(v));
  return wide * wide;
}

template <typename T>
__global__ void __launch_bounds__(kThreads) squares_kernel(const __grid_constant__ Gradients g, double* partial) {
  int low = 0, high = g.count;  // the gradient lies in [low, high)
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (g.first_chunk[middle] <= blockIdx.x ? low : high) = middle;
  }
  const int64_t begin = int64_t{blockIdx.x - g.first_chunk[low]} * kChunk;
  const T* x = static_cast<const T*>(g.data[low]) + begin;
  const int64_t left = g.elements[low] - begin;
  const int count = static_cast<int>(left < kChunk ? left : kChunk);
  constexpr int kPack = kPerVector<T>;
  double sum = 0;
  int i = static_cast<int>(threadIdx.x) * kPack;
  // A chunk begins at a multiple of 16 bytes when the tensor does.
  if (reinterpret_cast<uintptr_t>(x) % 16 == 0) {
#pragma unroll 4
    for (; i + kPack <= count; i += kThreads * kPack) {
      const Pack<T, kPack> values = load_pack<T, kPack>(x + i);
#pragma unroll
      for (int k = 0; k < kPack; ++k) sum += squared(values.v[k]);
    }
    for (int j = i; j < count && j < i + kPack; ++j) sum += squared(x[j]);
  } else {
    for (int j = static_cast<int>(threadIdx.x); j < count; j += kThreads) sum += squared(x[j]);
  }
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kSumThreads) sum_kernel(const double* partial, int64_t count, double* sum) {
  double total = 0;
#pragma unroll 8
  for (int64_t i = threadIdx.x; i < count; i += kSumThreads) total += partial[i];
  total = block_sum<kSumThreads>(total);
  if (threadIdx.x == 0) *sum = total;
}

struct ClipSums {
  const double* data[kMaxClipSums];
  int count = 0;
};

__global__ void clip_kernel(const double* inverse_scale_at, const __grid_constant__ ClipSums sums, double clip,
                            double* norm_at, double* coefficient, double* skip, double* halt) {
  const double inverse_scale = *inverse_scale_at;
  double sum = 0;
  for (int i = 0; i < sums.count; ++i) sum += *sums.data[i];
  const double norm = sqrt(sum) * inverse_scale;
  const bool good = isfinite(norm) && (halt == nullptr || *halt == 0.0);
  if (halt != nullptr && !good) *halt = 1.0;
  double factor = 1;
  if (clip > 0 && clip / (norm + 1e-6) < 1) factor = clip / (norm + 1e-6);
  if (norm_at != nullptr) *norm_at = norm;
  if (coefficient != nullptr) *coefficient = good ? inverse_scale * factor : 0.0;
  if (skip != nullptr) *skip = good ? 0.0 : 1.0;
}

/// Sums what `g` holds into the partial sums from `partial` on, and empties it.
void launch_squares(Gradients& g, DType dtype, double** partial, cudaStream_t stream) {
  if (g.count == 0) return;
  const unsigned blocks = g.first_chunk[g.count];
  dispatch_cuda("sum_of_squares", dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    squares_kernel<T><<<blocks, kThreads, 0, stream>>>(g, *partial);
  });
  check_launch(("sum_of_squares of " + std::to_string(g.count) + " gradients").c_str());
  *partial += blocks;
  g.count = 0;
}

}  // namespace

int64_t sum_of_squares_workspace_cuda(std::span<const Tensor> gradients) {
  int64_t chunks = 0;
  for (const Tensor& t : gradients) chunks += div_ceil(t.numel(), kChunk);
  return chunks * static_cast<int64_t>(sizeof(double));
}

void sum_of_squares_cuda(std::span<const Tensor> gradients, const Tensor& sum, void* workspace, void* stream) {
  double* const first = static_cast<double*>(workspace);
  double* partial = first;
  Gradients g;
  g.first_chunk[0] = 0;
  DType dtype = DType::kF32;
  for (const Tensor& t : gradients) {
    const int64_t chunks = div_ceil(t.numel(), kChunk);
    if (chunks == 0) continue;
    MEGATRON_CHECK(t.contiguous(), "sum_of_squares takes dense tensors");
    MEGATRON_CHECK(chunks < (int64_t{1} << 24), "sum_of_squares: a gradient is too large for one launch");
    // Blocks of one launch stay below 2^31: at most 96 gradients of fewer than 2^24 chunks.
    if (g.count == kPerLaunch || dtype != t.dtype) launch_squares(g, dtype, &partial, stream_of(stream));
    dtype = t.dtype;
    g.data[g.count] = t.data;
    g.elements[g.count] = t.numel();
    g.first_chunk[g.count + 1] = g.first_chunk[g.count] + static_cast<uint32_t>(chunks);
    ++g.count;
  }
  launch_squares(g, dtype, &partial, stream_of(stream));
  sum_kernel<<<1, kSumThreads, 0, stream_of(stream)>>>(first, partial - first, data_of<double>(sum));
  check_launch("sum_of_squares: partial sums");
}

void clip_cuda(const Tensor& inverse_scale, std::span<const Tensor> sums, double clip, const ClipTensors& results,
               void* stream) {
  MEGATRON_CHECK(sums.size() <= kMaxClipSums, "clip: at most 64 sums of squares on CUDA");
  ClipSums pointers;
  for (const Tensor& t : sums) pointers.data[pointers.count++] = data_of<double>(t);
  clip_kernel<<<1, 1, 0, stream_of(stream)>>>(data_of<double>(inverse_scale), pointers, clip,
                                              data_of<double>(results.norm), data_of<double>(results.coefficient),
                                              data_of<double>(results.skip), data_of<double>(results.halt));
  check_launch("clip");
}

}  // namespace megatron
