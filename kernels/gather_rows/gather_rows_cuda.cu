#include <cstdio>

#include "kernels/cuda/cuda_types.cuh"
#include "kernels/gather_rows/gather_rows.h"

namespace megatron {
namespace {

using namespace cuda;  // NOLINT: device helpers

constexpr int kThreads = 256;

/// Block (cut of the channels, sample). Scatter adds `picked` to the row of `whole`.
template <bool kScatter, typename T>
__global__ void __launch_bounds__(kThreads)
    rows_kernel(T* whole, T* picked, const int32_t* index, int64_t rows, int64_t batch, int64_t width) {
  using A = Accumulator<T>;
  const int64_t channel = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  for (int64_t b = blockIdx.y; b < batch; b += gridDim.y) {
    const int64_t row = index[b];
    if (row < 0 || row >= rows) {
      if (channel == 0) {
        printf("gather_rows: row %lld of sample %lld is outside [0, %lld)\n", static_cast<long long>(row),
               static_cast<long long>(b), static_cast<long long>(rows));
      }
      __trap();
    }
    if (channel >= width) continue;
    T& element = whole[(row * batch + b) * width + channel];
    T& one = picked[b * width + channel];
    if constexpr (kScatter) {
      element = from_accumulator<T>(to_accumulator<A>(element) + to_accumulator<A>(one));
    } else {
      one = element;
    }
  }
}

template <bool kScatter>
void launch(const char* what, const GatherRowsArgs& args, cudaStream_t stream) {
  dispatch_cuda(what, args.whole.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const int64_t batch = args.whole.shape[1], width = args.whole.shape[2];
    const dim3 grid(grid_size(width, kThreads), grid_size(batch, 1, 65535));
    rows_kernel<kScatter><<<grid, kThreads, 0, stream>>>(data_of<T>(args.whole), data_of<T>(args.picked),
                                                         data_of<int32_t>(args.index), args.whole.shape[0], batch,
                                                         width);
  });
  check_launch(what);
}

}  // namespace

void gather_rows_cuda(const GatherRowsArgs& args, void* stream) {
  if (args.picked.numel() == 0) return;
  launch<false>("gather_rows", args, stream_of(stream));
}

void scatter_rows_cuda(const GatherRowsArgs& args, void* stream) {
  if (args.whole.numel() == 0) return;
  if (!args.add) {
    check_cuda(cudaMemsetAsync(args.whole.data, 0, static_cast<size_t>(args.whole.bytes()), stream_of(stream)),
               "scatter_rows");
  }
  launch<true>("scatter_rows", args, stream_of(stream));
}

}  // namespace megatron
