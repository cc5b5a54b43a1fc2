#include "kernels/cast/cast.h"
#include "kernels/cuda/cuda_types.cuh"

namespace megatron {
namespace {

using namespace cuda;  // NOLINT

constexpr int kThreads = 256;

/// N elements per thread; the last ones, and tensors that are not aligned, one by one.
template <typename T, typename O, int N>
__global__ void __launch_bounds__(kThreads) cast_kernel(const T* __restrict__ x, O* __restrict__ y, int64_t count) {
  using A = cuda::Accumulator<T>;
  const int64_t i = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * N;
  if (i + N <= count) {
    A values[N];
    load_values<N>(x + i, values);
    store_values<N>(y + i, values);
    return;
  }
  for (int64_t j = i; j < count; ++j) y[j] = from_accumulator<O>(to_accumulator<A>(x[j]));
}

template <typename T, typename O, int N>
void launch_cast(const CastArgs& args, cudaStream_t stream) {
  const int64_t count = args.x.numel();
  cast_kernel<T, O, N>
      <<<grid_size(count, int64_t{kThreads} * N), kThreads, 0, stream>>>(data_of<T>(args.x), data_of<O>(args.y), count);
  check_launch(("cast " + to_string(args.x.shape) + " to " + std::string(name_of(args.y.dtype))).c_str());
}

}  // namespace

void cast_cuda(const CastArgs& args, void* stream) {
  if (args.x.numel() == 0) return;
  if (args.x.dtype == args.y.dtype) {
    check_cuda(cudaMemcpyAsync(args.y.data, args.x.data, static_cast<size_t>(args.x.bytes()), cudaMemcpyDeviceToDevice,
                               stream_of(stream)),
               "cast");
    return;
  }
  dispatch_cuda("cast", args.x.dtype, [&](auto in_type) {
    dispatch_cuda("cast", args.y.dtype, [&](auto out_type) {
      using T = typename decltype(in_type)::type;
      using O = typename decltype(out_type)::type;
      if constexpr (!std::is_same_v<T, O>) {
        // The narrower type fills 16 bytes.
        constexpr int kPack = 16 / static_cast<int>(sizeof(T) < sizeof(O) ? sizeof(T) : sizeof(O));
        if (is_aligned(args.x.data, 16) && is_aligned(args.y.data, 16)) {
          launch_cast<T, O, kPack>(args, stream_of(stream));
        } else {
          launch_cast<T, O, 1>(args, stream_of(stream));
        }
      }
    });
  });
}

void fill_zero_cuda(const Tensor& state, void* stream) {
  if (state.numel() == 0) return;
  check_cuda(cudaMemsetAsync(state.data, 0, static_cast<size_t>(state.bytes()), stream_of(stream)), "fill_zero");
}

}  // namespace megatron
