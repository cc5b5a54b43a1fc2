// Rotary position embedding on the GPU: one block per token makes cos and sin of its angles and turns all its heads
// with them. What it turns first is on its way from memory meanwhile.
#include "kernels/cuda/cuda_types.cuh"
#include "kernels/rope/rope.h"

namespace megatron {
namespace {

using namespace cuda;  // NOLINT: device helpers

constexpr int kThreads = 128;

/// The frequencies travel as a kernel parameter: a launcher copies nothing. kPairs: room for pairs of channels.
template <int kPairs>
struct Frequencies {
  double v[kPairs];
};

template <typename T>
struct Rotation {
  const T* x;
  T* y;  ///< may be x
  const int32_t* position;
  int64_t batch, x_s, x_b, y_s, y_b, position_s, position_b;
  RowOffsets x_heads, y_heads;
  int64_t heads;
  int d, pairs;
  double interpolation, concentration;
  bool inverse, add;
};

/// Angles of thousands of turns: the turns are taken off in fp64, and the rest is small enough for the type of the
/// result.
__device__ __forceinline__ void sine_and_cosine(double angle, double* sine, double* cosine) {
  sincos(angle, sine, cosine);
}
__device__ __forceinline__ void sine_and_cosine(double angle, float* sine, float* cosine) {
  const double turns = angle * 0.15915494309189533577;  // 1 / (2 pi)
  sincospif(2.0f * static_cast<float>(turns - rint(turns)), sine, cosine);
}

/// p[i] (+)= values[i].
template <int N, typename T, typename A>
__device__ __forceinline__ void write(T* p, A (&values)[N], bool add) {
  if (add) {
    A old[N];
    load_values<N>(p, old);
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] += old[i];
  }
  store_values<N>(p, values);
}

/// The first and second channels of N pairs that begin at pair `pair` of the head p.
template <int N, bool kInterleaved, typename T, typename A>
__device__ __forceinline__ void load_pairs(const T* p, int pair, int pairs, A (&first)[N], A (&second)[N]) {
  if constexpr (kInterleaved && N > 1) {
    A both[2 * N];
    load_values<2 * N>(p + 2 * pair, both);
#pragma unroll
    for (int i = 0; i < N; ++i) first[i] = both[2 * i], second[i] = both[2 * i + 1];
  } else {
    load_values<N>(p + (kInterleaved ? 2 * pair : pair), first);
    load_values<N>(p + (kInterleaved ? 2 * pair + 1 : pair + pairs), second);
  }
}
template <int N, bool kInterleaved, typename T, typename A>
__device__ __forceinline__ void store_pairs(T* p, int pair, int pairs, A (&first)[N], A (&second)[N], bool add) {
  if constexpr (kInterleaved && N > 1) {
    A both[2 * N];
#pragma unroll
    for (int i = 0; i < N; ++i) both[2 * i] = first[i], both[2 * i + 1] = second[i];
    write<2 * N>(p + 2 * pair, both, add);
  } else {
    write<N>(p + (kInterleaved ? 2 * pair : pair), first, add);
    write<N>(p + (kInterleaved ? 2 * pair + 1 : pair + pairs), second, add);
  }
}

/// N pairs at a time, and channels that pass through kRest at a time.
template <int N, int kRest, bool kInterleaved, int kPairs, typename T>
__global__ void __launch_bounds__(kThreads)
    rope_kernel(const Rotation<T> r, const __grid_constant__ Frequencies<kPairs> frequencies) {
  using A = Accumulator<T>;
  __shared__ A cosines[kPairs], sines[kPairs];
  const int64_t s = divide(blockIdx.x, r.batch), b = blockIdx.x - s * r.batch;
  const T* x = r.x + s * r.x_s + b * r.x_b;
  T* y = r.y + s * r.y_s + b * r.y_b;
  const int per_head = r.pairs / N;
  const int64_t items = r.heads * per_head;
  int64_t item = threadIdx.x, head = 0;
  int pair = 0;
  A first[N], second[N];
  const auto load_item = [&] {
    if (item >= items) return;
    head = divide(item, per_head);
    pair = static_cast<int>(item - head * per_head) * N;
    load_pairs<N, kInterleaved>(x + r.x_heads(head), pair, r.pairs, first, second);
  };
  load_item();
  const double place = static_cast<double>(r.position[s * r.position_s + b * r.position_b]) / r.interpolation;
  for (int i = static_cast<int>(threadIdx.x); i < r.pairs; i += kThreads) {
    A sine, cosine;
    sine_and_cosine(place * frequencies.v[i], &sine, &cosine);
    cosines[i] = static_cast<A>(r.concentration) * cosine;
    sines[i] = static_cast<A>(r.inverse ? -r.concentration : r.concentration) * sine;
  }
  __syncthreads();
  for (; item < items; item += kThreads, load_item()) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const A c = cosines[pair + i], t = sines[pair + i], x1 = first[i], x2 = second[i];
      first[i] = x1 * c - x2 * t;
      second[i] = x2 * c + x1 * t;
    }
    store_pairs<N, kInterleaved>(y + r.y_heads(head), pair, r.pairs, first, second, r.add);
  }
  const int rest = (r.d - 2 * r.pairs) / kRest;
  for (int64_t item = threadIdx.x; item < r.heads * rest; item += kThreads) {
    const int64_t head = divide(item, rest);
    const int64_t channel = 2 * r.pairs + (item - head * rest) * kRest;
    A values[kRest];
    load_values<kRest>(x + r.x_heads(head) + channel, values);
    write<kRest>(y + r.y_heads(head) + channel, values, r.add);
  }
}

/// The heads of one token.
Tensor heads_of(const Tensor& t) {
  Tensor heads = t;
  heads.shape = heads.strides = Dims{};
  for (int i = 2; i < t.shape.rank(); ++i) {
    heads.shape.push_back(t.shape[i]);
    heads.strides.push_back(t.strides[i]);
  }
  return heads;
}

template <int kPairs, typename T>
void launch_pairs(const RopeArgs& args, const Rotation<T>& r, cudaStream_t stream) {
  Frequencies<kPairs> frequencies{};
  for (int i = 0; i < r.pairs; ++i) frequencies.v[i] = args.table->inv_freq[static_cast<size_t>(i)];
  const unsigned grid = grid_size(args.x.shape[0] * args.x.shape[1], 1);
  constexpr int kAll = kPerVector<T>;
  const bool packs = allows_packs(args.x, kAll) && allows_packs(args.y, kAll);
  if (args.interleaved) {
    if (packs && 2 * r.pairs % kAll == 0) {
      rope_kernel<kAll / 2, kAll, true><<<grid, kThreads, 0, stream>>>(r, frequencies);
    } else {
      rope_kernel<1, 1, true><<<grid, kThreads, 0, stream>>>(r, frequencies);
    }
  } else {
    if (packs && r.pairs % kAll == 0) {
      rope_kernel<kAll, kAll, false><<<grid, kThreads, 0, stream>>>(r, frequencies);
    } else {
      rope_kernel<1, 1, false><<<grid, kThreads, 0, stream>>>(r, frequencies);
    }
  }
}

}  // namespace

void rope_cuda(const RopeArgs& args, void* stream) {
  if (args.x.numel() == 0) return;
  dispatch_cuda("rope", args.x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    Rotation<T> r{};
    r.x = data_of<T>(args.x), r.y = data_of<T>(args.y), r.position = data_of<int32_t>(args.position);
    r.batch = args.x.shape[1];
    r.x_s = args.x.strides[0], r.x_b = args.x.strides[1];
    r.y_s = args.y.strides[0], r.y_b = args.y.strides[1];
    r.position_s = args.position.strides[0], r.position_b = args.position.strides[1];
    r.x_heads = row_offsets(heads_of(args.x)), r.y_heads = row_offsets(heads_of(args.y));
    r.heads = count_rows(heads_of(args.x));
    r.d = narrow<int>(args.x.shape.back()), r.pairs = narrow<int>(static_cast<int64_t>(args.table->inv_freq.size()));
    r.interpolation = args.interpolation, r.concentration = args.table->concentration;
    r.inverse = args.inverse, r.add = args.add;
    constexpr int kFew = 64, kMany = 512;
    MEGATRON_CHECK(r.pairs <= kMany, "rope: heads of more than 1024 rotated channels");
    if (r.pairs <= kFew) {
      launch_pairs<kFew>(args, r, stream_of(stream));
    } else {
      launch_pairs<kMany>(args, r, stream_of(stream));
    }
  });
  check_launch("rope");
}

}  // namespace megatron
