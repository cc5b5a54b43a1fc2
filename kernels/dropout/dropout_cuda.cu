#include "kernels/cuda/cuda_types.cuh"
#include "kernels/dropout/dropout.h"
#include "kernels/random/dropout_mask.h"

namespace megatron {
namespace {

using namespace cuda;  // NOLINT: device helpers

constexpr int kThreads = 256;

template <typename T, typename O>
struct Dropout {
  const T *x, *bias;
  const O* residual;
  O* y;
  const int64_t *step, *sample;
  const int32_t* position;
  uint32_t total;     ///< packs
  Divisor per_token;  ///< packs
  Divisor batch;
  uint32_t first_channel, threshold;
  uint64_t key;
  Accumulator<O> scale;
};

/// kept[i]: channel first + i is kept. Words come in groups of four channels; first is a multiple of 4 when N is.
template <int N>
__device__ __forceinline__ void kept_channels(const DropoutToken& token, uint32_t first, uint32_t threshold,
                                              bool (&kept)[N]) {
  if constexpr (N % 4 == 0) {
#pragma unroll
    for (int g = 0; g < N / 4; ++g) {
      const Philox4 words = dropout_words(token, first / 4 + static_cast<uint32_t>(g));
#pragma unroll
      for (int i = 0; i < 4; ++i) kept[g * 4 + i] = words.v[i] >= threshold;
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const uint32_t channel = first + static_cast<uint32_t>(i), lane = channel % 4;
      const Philox4 words = dropout_words(token, channel / 4);
      const uint32_t word = lane < 2 ? (lane == 0 ? words.v[0] : words.v[1]) : (lane == 2 ? words.v[2] : words.v[3]);
      kept[i] = word >= threshold;
    }
  }
}

/// One pack of y per thread; y may be x or the residual.
template <int N, bool kRandom, typename T, typename O>
__global__ void __launch_bounds__(kThreads) dropout_kernel(const Dropout<T, O> d) {
  using A = Accumulator<O>;
  const uint32_t pack = blockIdx.x * kThreads + threadIdx.x;
  if (pack >= d.total) return;
  const int64_t begin = int64_t{pack} * N;
  const uint32_t token = d.per_token.divide(pack), channel = (pack - token * d.per_token.value) * N;
  A values[N], residual[N] = {};
  load_values<N>(d.x + begin, values);
  if (d.residual) load_values<N>(d.residual + begin, residual);
  if (d.bias) {
    A bias[N];
    load_values<N>(d.bias + channel, bias);
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] += bias[i];
  }
  if constexpr (kRandom) {
    const int64_t sample = d.sample[token - d.batch.divide(token) * d.batch.value];
    bool kept[N];
    kept_channels<N>(dropout_token(d.key, *d.step, sample, d.position[token]), d.first_channel + channel, d.threshold,
                     kept);
    // A dropped infinity is dropped, not NaN.
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = kept[i] ? values[i] * d.scale : A(0);
  }
#pragma unroll
  for (int i = 0; i < N; ++i) values[i] += residual[i];
  store_values<N>(d.y + begin, values);
}

template <typename T, typename O>
void launch(const DropoutArgs& args, cudaStream_t stream) {
  const bool random = args.options.p > 0;
  Dropout<T, O> d{};
  d.x = data_of<T>(args.x), d.bias = data_of<T>(args.bias);
  d.residual = data_of<O>(args.residual), d.y = data_of<O>(args.y);
  d.batch = Divisor(args.x.shape[1]), d.first_channel = static_cast<uint32_t>(args.first_channel);
  if (random) {
    d.step = data_of<int64_t>(args.step), d.sample = data_of<int64_t>(args.sample);
    d.position = data_of<int32_t>(args.position);
    d.key = dropout_key(args.options.seed, hash_name(args.options.name));
    const uint64_t threshold = dropout_threshold(args.options.p);
    MEGATRON_CHECK(threshold >> 32 == 0, "dropout: everything would be dropped");
    d.threshold = static_cast<uint32_t>(threshold);
    d.scale = static_cast<Accumulator<O>>(1.0 / (1.0 - args.options.p));
  }
  const auto run = [&](auto pack) {
    constexpr int N = decltype(pack)::value;
    MEGATRON_CHECK(args.x.numel() / N < (int64_t{1} << 31), "dropout: the tensor is too large for one launch");
    d.total = static_cast<uint32_t>(args.x.numel() / N), d.per_token = Divisor(args.x.shape[2] / N);
    const unsigned grid = grid_size(d.total, kThreads);
    if (random) {
      dropout_kernel<N, true><<<grid, kThreads, 0, stream>>>(d);
    } else {
      dropout_kernel<N, false><<<grid, kThreads, 0, stream>>>(d);
    }
  };
  constexpr int N = kPerVector < T >> kPerVector<O> ? kPerVector<T> : kPerVector<O>;
  bool packs = N % 4 != 0 || args.first_channel % 4 == 0;
  for (const Tensor* t : {&args.x, &args.bias, &args.residual, &args.y}) packs = packs && allows_packs(*t, N);
  if (packs) {
    run(std::integral_constant<int, N>{});
  } else {
    run(std::integral_constant<int, 1>{});
  }
  check_launch("dropout");
}

}  // namespace

void dropout_cuda(const DropoutArgs& args, void* stream) {
  if (args.x.numel() == 0) return;
  dispatch_cuda("dropout", args.x.dtype, [&](auto in_tag) {
    dispatch_cuda("dropout", args.y.dtype, [&](auto out_tag) {
      launch<typename decltype(in_tag)::type, typename decltype(out_tag)::type>(args, stream_of(stream));
    });
  });
}

}  // namespace megatron
