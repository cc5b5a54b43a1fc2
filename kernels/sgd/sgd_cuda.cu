#include "kernels/adamw/update_cuda.cuh"
#include "kernels/sgd/sgd.h"

namespace megatron {
namespace {

using namespace cuda;  // NOLINT: device helpers

struct SgdRule {
  double momentum, weight_decay_multiplier;

  template <typename A>
  struct Step {
    A lr, decay, coefficient, momentum;
    bool first;

    /// At the first update the buffer's old content does not count, whatever it is. Without momentum there is none.
    __device__ __forceinline__ void operator()(A grad, A& buffer, A&, A& p) const {
      const A g = coefficient * grad + decay * p;
      buffer = first ? g : momentum * buffer + g;
      p -= lr * buffer;
    }
  };

  template <typename A>
  __device__ __forceinline__ Step<A> step(const UpdateScalars& s) const {
    return {static_cast<A>(*s.lr), static_cast<A>(*s.weight_decay * weight_decay_multiplier),
            static_cast<A>(*s.coefficient), static_cast<A>(momentum), *s.t == 1};
  }
};

}  // namespace

void sgd_cuda(const SgdCudaArgs& args, void* stream) {
  const auto scalar = [](const Tensor& t) { return data_of<double>(t); };
  launch_update(
      "sgd", {args.param, args.master, {args.momentum, {}}, args.grad},
      {scalar(args.lr), scalar(args.weight_decay), scalar(args.coefficient), scalar(args.skip), scalar(args.t)},
      SgdRule{args.options.momentum, args.options.weight_decay_multiplier}, stream);
}

}  // namespace megatron
