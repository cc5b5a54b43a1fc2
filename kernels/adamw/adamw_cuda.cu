#include "kernels/adamw/adamw.h"
#include "kernels/adamw/update_cuda.cuh"

namespace megatron {
namespace {

using namespace cuda;  // NOLINT: device helpers

struct AdamWRule {
  double beta1, beta2, epsilon, weight_decay_multiplier;

  template <typename A>
  struct Step {
    A coefficient, beta1, beta2, rest1, rest2, epsilon, step_size, inverse_root, decay;

    __device__ __forceinline__ void operator()(A grad, A& m, A& v, A& p) const {
      const A g = coefficient * grad;
      m = beta1 * m + rest1 * g;
      v = beta2 * v + rest2 * (g * g);
      p -= step_size * (m / (sqrt(v) * inverse_root + epsilon)) + decay * p;
    }
  };

  /// Worked out once per block: two powers in fp64, one per warp, cost less than a trip to memory.
  template <typename A>
  __device__ __forceinline__ Step<A> step(const UpdateScalars& s) const {
    __shared__ double shared[2];
    const double lr = *s.lr, t = *s.t;
    if (threadIdx.x == 0) shared[0] = lr / (1 - pow(beta1, t));
    if (threadIdx.x == kWarp) shared[1] = 1 / sqrt(1 - pow(beta2, t));
    __syncthreads();
    return {static_cast<A>(*s.coefficient),
            static_cast<A>(beta1),
            static_cast<A>(beta2),
            static_cast<A>(1 - beta1),
            static_cast<A>(1 - beta2),
            static_cast<A>(epsilon),
            static_cast<A>(shared[0]),
            static_cast<A>(shared[1]),
            static_cast<A>(lr * (*s.weight_decay * weight_decay_multiplier))};
  }
};

}  // namespace

void adamw_cuda(const AdamWCudaArgs& args, void* stream) {
  const auto scalar = [](const Tensor& t) { return data_of<double>(t); };
  launch_update(
      "adamw", {args.param, args.master, {args.m, args.v}, args.grad},
      {scalar(args.lr), scalar(args.weight_decay), scalar(args.coefficient), scalar(args.skip), scalar(args.t)},
      AdamWRule{args.options.beta1, args.options.beta2, args.options.epsilon, args.options.weight_decay_multiplier},
      stream);
}

}  // namespace megatron
