#include <cmath>

#include "kernels/adamw/adamw.h"
#include "kernels/common.h"

namespace megatron {
namespace {

/// P: type of the parameter. The master copy, moments and gradient have its accumulator type.
template <typename P>
void update(const AdamWArgs& args, ThreadPool* pool) {
  using A = Accumulator<P>;
  P* param = args.param.as<P>();
  A* master = args.master ? args.master.as<A>() : nullptr;
  A *m = args.m.as<A>(), *v = args.v.as<A>();
  const A* grad = args.grad.as<A>();
  const AdamWStep& s = args.step;
  const A coefficient = static_cast<A>(s.coefficient), beta1 = static_cast<A>(s.beta1), beta2 = static_cast<A>(s.beta2);
  const A rest1 = static_cast<A>(1 - s.beta1), rest2 = static_cast<A>(1 - s.beta2), decay = static_cast<A>(s.decay);
  const A step_size = static_cast<A>(s.step_size), inverse_root = static_cast<A>(s.inverse_root);
  const A epsilon = static_cast<A>(s.epsilon);
  for_elements(pool, args.param.numel(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const A g = coefficient * grad[i];
      const A first = beta1 * m[i] + rest1 * g, second = beta2 * v[i] + rest2 * (g * g);
      const A p = master ? master[i] : static_cast<A>(param[i]);
      const A updated = p - (step_size * (first / (std::sqrt(second) * inverse_root + epsilon)) + decay * p);
      m[i] = first;
      v[i] = second;
      if (master) master[i] = updated;
      param[i] = P(updated);
    }
  });
}

}  // namespace

void adamw_cpu(const AdamWArgs& args, ThreadPool* pool) {
  dispatch_floating("adamw", args.param.dtype, [&](auto type) { update<decltype(type)>(args, pool); });
}

}  // namespace megatron
