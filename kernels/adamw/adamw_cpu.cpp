#include <cmath>

#include "kernels/adamw/adamw.h"
#include "kernels/common.h"

namespace megatron {
namespace {

/// P: type of the parameter. The master copy (of 16-bit parameters only), moments and gradient have its accumulator
/// type.
template <typename P>
void update(const AdamWArgs& args, ThreadPool* pool) {
  using A = Accumulator<P>;
  constexpr bool kHasMaster = sizeof(P) < sizeof(A);
  P* __restrict param = args.param.as<P>();
  A* __restrict m = args.m.as<A>();
  A* __restrict v = args.v.as<A>();
  const A* __restrict grad = args.grad.as<A>();
  A* __restrict master = nullptr;
  if constexpr (kHasMaster) master = args.master.as<A>();
  const AdamWStep& s = args.step;
  const A coefficient = static_cast<A>(s.coefficient), beta1 = static_cast<A>(s.beta1), beta2 = static_cast<A>(s.beta2);
  const A rest1 = static_cast<A>(1 - s.beta1), rest2 = static_cast<A>(1 - s.beta2), decay = static_cast<A>(s.decay);
  const A step_size = static_cast<A>(s.step_size), inverse_root = static_cast<A>(s.inverse_root);
  const A epsilon = static_cast<A>(s.epsilon);
  for_elements(pool, args.param.numel(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const A g = coefficient * grad[i];
      const A first = beta1 * m[i] + rest1 * g, second = beta2 * v[i] + rest2 * (g * g);
      A p;
      if constexpr (kHasMaster) {
        p = master[i];
      } else {
        p = param[i];
      }
      const A updated = p - (step_size * (first / (std::sqrt(second) * inverse_root + epsilon)) + decay * p);
      m[i] = first;
      v[i] = second;
      if constexpr (kHasMaster) master[i] = updated;
      param[i] = P(updated);
    }
  });
}

}  // namespace

void adamw_cpu(const AdamWArgs& args, ThreadPool* pool) {
  dispatch_floating("adamw", args.param.dtype, [&](auto type) { update<decltype(type)>(args, pool); });
}

}  // namespace megatron
