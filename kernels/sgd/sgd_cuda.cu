#include "kernels/cuda/cuda_types.cuh"
#include "kernels/sgd/sgd.h"

namespace megatron {
namespace {

using namespace cuda;  // NOLINT

constexpr int kThreads = 256;

struct Scalars {
  const double *lr, *weight_decay, *coefficient, *skip, *t;
  double momentum, weight_decay_multiplier;
};

template <typename A>
struct Step {
  A lr, decay, coefficient, momentum;
  bool first;
};

template <typename P, typename A>
struct Pointers {
  P* param;
  A *master, *momentum;
  const A* grad;
};

/// N elements from i on.
template <int N, typename P, typename A>
__device__ __forceinline__ void update_pack(const Pointers<P, A>& at, int64_t i, const Step<A>& s) {
  constexpr bool kHasMaster = sizeof(P) < sizeof(A);
  A p[N], g[N];
  if constexpr (kHasMaster) {
    load_values<N>(at.master + i, p);
  } else {
    load_values<N>(at.param + i, p);
  }
  load_values<N>(at.grad + i, g);
#pragma unroll
  for (int k = 0; k < N; ++k) g[k] = s.coefficient * g[k] + s.decay * p[k];
  if (at.momentum != nullptr) {
    if (!s.first) {  // at the first update the buffer's old content does not count, whatever it is
      A buffer[N];
      load_values<N>(at.momentum + i, buffer);
#pragma unroll
      for (int k = 0; k < N; ++k) g[k] = s.momentum * buffer[k] + g[k];
    }
    store_values<N>(at.momentum + i, g);
  }
#pragma unroll
  for (int k = 0; k < N; ++k) p[k] -= s.lr * g[k];
  if constexpr (kHasMaster) store_values<N>(at.master + i, p);
  store_values<N>(at.param + i, p);
}

template <typename P, int N>
__global__ void __launch_bounds__(kThreads)
    sgd_kernel(const Pointers<P, cuda::Accumulator<P>> at, const Scalars s, int64_t count) {
  using A = cuda::Accumulator<P>;
  if (*s.skip != 0) return;
  const double t = *s.t;
  if (t < 1) __trap();  // updates count from 1
  const Step<A> step{static_cast<A>(*s.lr), static_cast<A>(*s.weight_decay * s.weight_decay_multiplier),
                     static_cast<A>(*s.coefficient), static_cast<A>(s.momentum), t == 1};
  const int64_t packs = count / N, stride = int64_t{gridDim.x} * kThreads;
  const int64_t thread = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  for (int64_t i = thread; i < packs; i += stride) update_pack<N>(at, i * N, step);
  if (thread < count - packs * N) update_pack<1>(at, packs * N + thread, step);
}

template <typename P, int N>
void launch(const SgdCudaArgs& args, cudaStream_t stream) {
  using A = cuda::Accumulator<P>;
  const int64_t count = args.param.numel();
  const Pointers<P, A> at{data_of<P>(args.param), data_of<A>(args.master), data_of<A>(args.momentum),
                          data_of<A>(args.grad)};
  const Scalars scalars{data_of<double>(args.lr),
                        data_of<double>(args.weight_decay),
                        data_of<double>(args.coefficient),
                        data_of<double>(args.skip),
                        data_of<double>(args.t),
                        args.options.momentum,
                        args.options.weight_decay_multiplier};
  sgd_kernel<P, N><<<grid_size(count, int64_t{kThreads} * N, kFullGrid), kThreads, 0, stream>>>(at, scalars, count);
  check_launch(("sgd " + to_string(args.param.shape)).c_str());
}

}  // namespace

void sgd_cuda(const SgdCudaArgs& args, void* stream) {
  if (args.param.numel() == 0) return;
  dispatch_cuda("sgd", args.param.dtype, [&](auto tag) {
    using P = typename decltype(tag)::type;
    using A = cuda::Accumulator<P>;
    constexpr int kPack = kPerVector<A>;
    bool aligned = is_aligned(args.param.data, sizeof(P) * kPack);
    for (const Tensor* t : {&args.master, &args.momentum, &args.grad}) aligned = aligned && is_aligned(t->data, 16);
    if (aligned) {
      launch<P, kPack>(args, stream_of(stream));
    } else {
      launch<P, 1>(args, stream_of(stream));
    }
  });
}

}  // namespace megatron
