#include "kernels/adamw/adamw.h"
#include "kernels/cuda/cuda_types.cuh"

namespace megatron {
namespace {

using namespace cuda;  // NOLINT

constexpr int kThreads = 256;

struct Scalars {
  const double *lr, *weight_decay, *coefficient, *skip, *t;
  double beta1, beta2, epsilon, weight_decay_multiplier;
};

/// What the scalars come to in this step, in the type of the moments.
template <typename A>
struct Step {
  A coefficient, beta1, beta2, rest1, rest2, epsilon, step_size, inverse_root, decay;
};

/// Worked out once per block: two powers in fp64, one per warp, cost less than a trip to memory.
template <typename A>
__device__ __forceinline__ Step<A> make_step(const Scalars& s) {
  __shared__ double shared[2];
  const double lr = *s.lr, t = *s.t;
  if (t < 1) __trap();  // updates count from 1
  if (threadIdx.x == 0) shared[0] = lr / (1 - pow(s.beta1, t));
  if (threadIdx.x == kWarp) shared[1] = 1 / sqrt(1 - pow(s.beta2, t));
  __syncthreads();
  Step<A> step;
  step.coefficient = static_cast<A>(*s.coefficient);
  step.beta1 = static_cast<A>(s.beta1);
  step.beta2 = static_cast<A>(s.beta2);
  step.rest1 = static_cast<A>(1 - s.beta1);
  step.rest2 = static_cast<A>(1 - s.beta2);
  step.epsilon = static_cast<A>(s.epsilon);
  step.step_size = static_cast<A>(shared[0]);
  step.inverse_root = static_cast<A>(shared[1]);
  step.decay = static_cast<A>(lr * (*s.weight_decay * s.weight_decay_multiplier));
  return step;
}

template <typename A>
__device__ __forceinline__ void update(const Step<A>& s, A grad, A& m, A& v, A& p) {
  const A g = s.coefficient * grad;
  m = s.beta1 * m + s.rest1 * g;
  v = s.beta2 * v + s.rest2 * (g * g);
  p -= s.step_size * (m / (sqrt(v) * s.inverse_root + s.epsilon)) + s.decay * p;
}

template <typename P, typename A>
struct Pointers {
  P* param;
  A *master, *m, *v;
  const A* grad;
};

/// N elements from i on.
template <int N, typename P, typename A>
__device__ __forceinline__ void update_pack(const Pointers<P, A>& at, int64_t i, const Step<A>& s) {
  constexpr bool kHasMaster = sizeof(P) < sizeof(A);
  A p[N], m[N], v[N], g[N];
  if constexpr (kHasMaster) {
    load_values<N>(at.master + i, p);
  } else {
    load_values<N>(at.param + i, p);
  }
  load_values<N>(at.m + i, m);
  load_values<N>(at.v + i, v);
  load_values<N>(at.grad + i, g);
#pragma unroll
  for (int k = 0; k < N; ++k) update(s, g[k], m[k], v[k], p[k]);
  store_values<N>(at.m + i, m);
  store_values<N>(at.v + i, v);
  if constexpr (kHasMaster) store_values<N>(at.master + i, p);
  store_values<N>(at.param + i, p);
}

template <typename P, int N>
__global__ void __launch_bounds__(kThreads)
    adamw_kernel(const Pointers<P, cuda::Accumulator<P>> at, const Scalars scalars, int64_t count) {
  using A = cuda::Accumulator<P>;
  if (*scalars.skip != 0) return;
  const Step<A> step = make_step<A>(scalars);
  const int64_t packs = count / N, stride = int64_t{gridDim.x} * kThreads;
  const int64_t thread = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  for (int64_t i = thread; i < packs; i += stride) update_pack<N>(at, i * N, step);
  if (thread < count - packs * N) update_pack<1>(at, packs * N + thread, step);
}

template <typename P, int N>
void launch(const AdamWCudaArgs& args, cudaStream_t stream) {
  using A = cuda::Accumulator<P>;
  const int64_t count = args.param.numel();
  const Pointers<P, A> at{data_of<P>(args.param), data_of<A>(args.master), data_of<A>(args.m), data_of<A>(args.v),
                          data_of<A>(args.grad)};
  const Scalars scalars{data_of<double>(args.lr),
                        data_of<double>(args.weight_decay),
                        data_of<double>(args.coefficient),
                        data_of<double>(args.skip),
                        data_of<double>(args.t),
                        args.options.beta1,
                        args.options.beta2,
                        args.options.epsilon,
                        args.options.weight_decay_multiplier};
  adamw_kernel<P, N><<<grid_size(count, int64_t{kThreads} * N, kFullGrid), kThreads, 0, stream>>>(at, scalars, count);
  check_launch(("adamw " + to_string(args.param.shape)).c_str());
}

}  // namespace

void adamw_cuda(const AdamWCudaArgs& args, void* stream) {
  if (args.param.numel() == 0) return;
  dispatch_cuda("adamw", args.param.dtype, [&](auto tag) {
    using P = typename decltype(tag)::type;
    using A = cuda::Accumulator<P>;
    constexpr int kPack = kPerVector<A>;
    bool aligned = is_aligned(args.param.data, sizeof(P) * kPack);
    for (const Tensor* t : {&args.master, &args.m, &args.v, &args.grad}) aligned = aligned && is_aligned(t->data, 16);
    if (aligned) {
      launch<P, kPack>(args, stream_of(stream));
    } else {
      launch<P, 1>(args, stream_of(stream));
    }
  });
}

}  // namespace megatron
