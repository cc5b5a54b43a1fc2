#include <cmath>

#include "kernels/activation/activation.h"
#include "kernels/common.h"
#include "kernels/vector_math.h"

namespace megatron {
namespace {

/// Value and derivative at one point.
template <typename A>
struct Point {
  A value, slope;
};

// sqrt(2/pi), and the tanh form written as x s(2u), u = c (x + 0.044715 x^3), since (1 + tanh u) / 2 = s(2u).
template <typename A>
struct GeluTanh {
  Point<A> operator()(A x) const {
    constexpr A c = A(0.79788456080286535588), k = A(0.044715);
    const Logistic<A> s = logistic(A(2) * c * (x + k * x * x * x));
    return {x * s.value, s.value + x * s.slope * A(2) * c * (A(1) + A(3) * k * x * x)};
  }
};

template <typename A>
struct GeluErf {
  Point<A> operator()(A x) const {
    const A cdf = A(0.5) * std::erfc(-x * A(0.70710678118654752440));
    const A density = A(0.39894228040143267794) * vector_exp(A(-0.5) * x * x);
    return {x * cdf, cdf + x * density};
  }
};

template <typename A>
struct Silu {
  Point<A> operator()(A x) const {
    const Logistic<A> s = logistic(x);
    return {x * s.value, s.value + x * s.slope};
  }
};

template <typename A>
struct QuickGelu {
  Point<A> operator()(A x) const {
    const Logistic<A> s = logistic(A(1.702) * x);
    return {x * s.value, s.value + A(1.702) * x * s.slope};
  }
};

// Written so that NaN is passed on.
template <typename A>
struct Relu {
  Point<A> operator()(A x) const { return {x < A(0) ? A(0) : x, x > A(0) ? A(1) : A(0)}; }
};

template <typename A>
struct SquaredRelu {
  Point<A> operator()(A x) const {
    const A r = x < A(0) ? A(0) : x;
    return {r * r, A(2) * r};
  }
};

/// body(act) with the functor of `kind`.
template <typename A, typename Body>
void dispatch_activation(ActivationKind kind, Body&& body) {
  switch (kind) {
    case ActivationKind::kGeluTanh:
      return body(GeluTanh<A>{});
    case ActivationKind::kGeluErf:
      return body(GeluErf<A>{});
    case ActivationKind::kSilu:
      return body(Silu<A>{});
    case ActivationKind::kSquaredRelu:
      return body(SquaredRelu<A>{});
    case ActivationKind::kRelu:
      return body(Relu<A>{});
    case ActivationKind::kQuickGelu:
      return body(QuickGelu<A>{});
  }
}

template <typename Body>
void dispatch_both(const char* what, DType dtype, ActivationKind kind, Body&& body) {
  dispatch_floating(what, dtype, [&](auto type) {
    using T = decltype(type);
    dispatch_activation<Accumulator<T>>(kind, [&](auto act) { body(T{}, act); });
  });
}

}  // namespace

void activation_cpu(const ActivationArgs& args, ThreadPool* pool) {
  dispatch_both("activation", args.x.dtype, args.kind, [&](auto type, auto act) {
    using T = decltype(type);
    using A = Accumulator<T>;
    const T* x = args.x.as<T>();
    T* y = args.y.as<T>();
    for_elements(pool, args.x.numel(), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) y[i] = T(act(static_cast<A>(x[i])).value);
    });
  });
}

void activation_backward_cpu(const ActivationBackwardArgs& args, ThreadPool* pool) {
  dispatch_both("activation_backward", args.x.dtype, args.kind, [&](auto type, auto act) {
    using T = decltype(type);
    using A = Accumulator<T>;
    const T *x = args.x.as<T>(), *dy = args.dy.as<T>();
    T* dx = args.dx.as<T>();
    for_elements(pool, args.x.numel(), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) dx[i] = T(static_cast<A>(dy[i]) * act(static_cast<A>(x[i])).slope);
    });
  });
}

void gated_activation_cpu(const GatedActivationArgs& args, ThreadPool* pool) {
  const int64_t f = args.x.shape.back(), rows = product(args.x.shape, 0, args.x.shape.rank() - 2);
  dispatch_both("gated_activation", args.x.dtype, args.kind, [&](auto type, auto act) {
    using T = decltype(type);
    using A = Accumulator<T>;
    const T* x = args.x.as<T>();
    T* y = args.y.as<T>();
    pool->parallel_for(rows, rows_per_block(f), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const T *gate = x + row * 2 * f, *linear = gate + f;
        T* yr = y + row * f;
        for (int64_t i = 0; i < f; ++i) yr[i] = T(act(static_cast<A>(gate[i])).value * static_cast<A>(linear[i]));
      }
    });
  });
}

void gated_activation_backward_cpu(const GatedActivationBackwardArgs& args, ThreadPool* pool) {
  const int64_t f = args.x.shape.back(), rows = product(args.x.shape, 0, args.x.shape.rank() - 2);
  dispatch_both("gated_activation_backward", args.x.dtype, args.kind, [&](auto type, auto act) {
    using T = decltype(type);
    using A = Accumulator<T>;
    const T *x = args.x.as<T>(), *dy = args.dy.as<T>();
    T* dx = args.dx.as<T>();
    pool->parallel_for(rows, rows_per_block(f), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const T *gate = x + row * 2 * f, *linear = gate + f, *dyr = dy + row * f;
        T *dgate = dx + row * 2 * f, *dlinear = dgate + f;
        for (int64_t i = 0; i < f; ++i) {
          const Point<A> p = act(static_cast<A>(gate[i]));
          const A g = static_cast<A>(dyr[i]);
          dgate[i] = T(g * static_cast<A>(linear[i]) * p.slope);
          dlinear[i] = T(g * p.value);
        }
      }
    });
  });
}

}  // namespace megatron
