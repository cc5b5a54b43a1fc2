#include "kernels/common.h"
#include "kernels/sgd/sgd.h"

namespace megatron {
namespace {

template <typename P>
void update(const SgdArgs& args, ThreadPool* pool) {
  using A = Accumulator<P>;
  P* param = args.param.as<P>();
  A* master = args.master ? args.master.as<A>() : nullptr;
  A* momentum = args.momentum ? args.momentum.as<A>() : nullptr;
  const A* grad = args.grad.as<A>();
  const A lr = static_cast<A>(args.lr), decay = static_cast<A>(args.weight_decay);
  const A coefficient = static_cast<A>(args.coefficient), factor = static_cast<A>(args.momentum_factor);
  for_elements(pool, args.param.numel(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const A p = master ? master[i] : static_cast<A>(param[i]);
      A g = coefficient * grad[i] + decay * p;
      if (momentum) {
        // At the first update the buffer's old content does not count, whatever it is.
        g = factor == A(0) ? g : factor * momentum[i] + g;
        momentum[i] = g;
      }
      const A updated = p - lr * g;
      if (master) master[i] = updated;
      param[i] = P(updated);
    }
  });
}

}  // namespace

void sgd_cpu(const SgdArgs& args, ThreadPool* pool) {
  dispatch_floating("sgd", args.param.dtype, [&](auto type) { update<decltype(type)>(args, pool); });
}

}  // namespace megatron
