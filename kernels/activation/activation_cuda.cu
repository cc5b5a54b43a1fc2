#include "kernels/activation/activation.h"
#include "kernels/cuda/cuda_types.cuh"

namespace megatron {
namespace {

using namespace cuda;  // NOLINT: device helpers

constexpr int kThreads = 256;

/// Value and derivative at one point.
template <typename A>
struct Point {
  A value, slope;
};

/// s = 1 / (1 + e^-z) and s (1 - s), without cancellation.
template <typename A>
struct LogisticPair {
  A value, slope;
};
__device__ __forceinline__ LogisticPair<double> logistic_pair(double z) {
  const double e = exp(-fmin(fmax(z, -700.0), 700.0)), s = 1.0 / (1.0 + e);
  return z != z ? LogisticPair<double>{z, z} : LogisticPair<double>{s, e * s * s};
}
__device__ __forceinline__ LogisticPair<float> logistic_pair(float z) {
  const float e = expf(-fminf(fmaxf(z, -80.0f), 80.0f)), s = __fdividef(1.0f, 1.0f + e);
  return z != z ? LogisticPair<float>{z, z} : LogisticPair<float>{s, e * s * s};
}

__device__ __forceinline__ double erfc_of(double x) {
  return erfc(x);
}
__device__ __forceinline__ float erfc_of(float x) {
  return erfcf(x);
}
__device__ __forceinline__ double exp_of(double x) {
  return exp(x);
}
__device__ __forceinline__ float exp_of(float x) {
  return expf(x);
}

// sqrt(2/pi), and the tanh form written as x s(2u), u = c (x + 0.044715 x^3), since (1 + tanh u) / 2 = s(2u).
template <typename A>
struct GeluTanh {
  __device__ __forceinline__ Point<A> operator()(A x) const {
    constexpr A c = A(0.79788456080286535588), k = A(0.044715);
    const LogisticPair<A> s = logistic_pair(A(2) * c * (x + k * x * x * x));
    return {x * s.value, s.value + x * s.slope * A(2) * c * (A(1) + A(3) * k * x * x)};
  }
};

template <typename A>
struct GeluErf {
  __device__ __forceinline__ Point<A> operator()(A x) const {
    const A cdf = A(0.5) * erfc_of(-x * A(0.70710678118654752440));
    const A density = A(0.39894228040143267794) * exp_of(A(-0.5) * x * x);
    return {x * cdf, cdf + x * density};
  }
};

template <typename A>
struct Silu {
  __device__ __forceinline__ Point<A> operator()(A x) const {
    const LogisticPair<A> s = logistic_pair(x);
    return {x * s.value, s.value + x * s.slope};
  }
};

template <typename A>
struct QuickGelu {
  __device__ __forceinline__ Point<A> operator()(A x) const {
    const LogisticPair<A> s = logistic_pair(A(1.702) * x);
    return {x * s.value, s.value + A(1.702) * x * s.slope};
  }
};

// Written so that NaN is passed on.
template <typename A>
struct Relu {
  __device__ __forceinline__ Point<A> operator()(A x) const { return {x < A(0) ? A(0) : x, x > A(0) ? A(1) : A(0)}; }
};

template <typename A>
struct SquaredRelu {
  __device__ __forceinline__ Point<A> operator()(A x) const {
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

/// Thread t has the elements [t N, t N + N) of n; the last one may have fewer. y may be x, dx may be dy.
template <int N, typename T, typename Act>
__global__ void __launch_bounds__(kThreads) forward_kernel(const T* x, T* y, int64_t n, Act act) {
  using A = Accumulator<T>;
  const int64_t begin = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * N;
  if (begin + N <= n) {
    A values[N];
    load_values<N>(x + begin, values);
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = act(values[i]).value;
    store_values<N>(y + begin, values);
  } else {
    for (int64_t i = begin; i < n; ++i) y[i] = from_accumulator<T>(act(to_accumulator<A>(x[i])).value);
  }
}

template <int N, typename T, typename Act>
__global__ void __launch_bounds__(kThreads) backward_kernel(const T* dy, const T* x, T* dx, int64_t n, Act act) {
  using A = Accumulator<T>;
  const int64_t begin = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * N;
  if (begin + N <= n) {
    A values[N], gradients[N];
    load_values<N>(x + begin, values);
    load_values<N>(dy + begin, gradients);
#pragma unroll
    for (int i = 0; i < N; ++i) gradients[i] *= act(values[i]).slope;
    store_values<N>(dx + begin, gradients);
  } else {
    for (int64_t i = begin; i < n; ++i)
      dx[i] = from_accumulator<T>(to_accumulator<A>(dy[i]) * act(to_accumulator<A>(x[i])).slope);
  }
}

/// One pack of y per thread; x has rows [2, f], f = per_row * N.
template <int N, typename T, typename Act>
__global__ void __launch_bounds__(kThreads)
    gated_forward_kernel(const T* __restrict__ x, T* __restrict__ y, uint32_t total, Divisor per_row, Act act) {
  using A = Accumulator<T>;
  const uint32_t pack = blockIdx.x * kThreads + threadIdx.x;
  if (pack >= total) return;
  const T* gates = x + (pack + int64_t{per_row.divide(pack)} * per_row.value) * N;
  A gate[N], linear[N];
  load_values<N>(gates, gate);
  load_values<N>(gates + int64_t{per_row.value} * N, linear);
#pragma unroll
  for (int i = 0; i < N; ++i) gate[i] = act(gate[i]).value * linear[i];
  store_values<N>(y + int64_t{pack} * N, gate);
}

template <int N, typename T, typename Act>
__global__ void __launch_bounds__(kThreads)
    gated_backward_kernel(const T* __restrict__ dy, const T* __restrict__ x, T* __restrict__ dx, uint32_t total,
                          Divisor per_row, Act act) {
  using A = Accumulator<T>;
  const uint32_t pack = blockIdx.x * kThreads + threadIdx.x;
  if (pack >= total) return;
  const int64_t first = (pack + int64_t{per_row.divide(pack)} * per_row.value) * N;
  const int64_t second = first + int64_t{per_row.value} * N;
  A gate[N], linear[N], gradient[N];
  load_values<N>(x + first, gate);
  load_values<N>(x + second, linear);
  load_values<N>(dy + int64_t{pack} * N, gradient);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const Point<A> p = act(gate[i]);
    gate[i] = gradient[i] * linear[i] * p.slope;
    linear[i] = gradient[i] * p.value;
  }
  store_values<N>(dx + first, gate);
  store_values<N>(dx + second, linear);
}

uint32_t packs_of(int64_t count) {
  MEGATRON_CHECK(count < (int64_t{1} << 31), "gated_activation: the tensor is too large for one launch");
  return static_cast<uint32_t>(count);
}

/// body(Tag<T>, act, pack): pack is kPerVector<T> when `packs(that)` allows it, else 1.
template <typename Packs, typename Body>
void dispatch_all(const char* what, DType dtype, ActivationKind kind, Packs&& packs, Body&& body) {
  dispatch_cuda(what, dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    dispatch_activation<Accumulator<T>>(kind, [&](auto act) {
      if (packs(kPerVector<T>)) {
        body(tag, act, std::integral_constant<int, kPerVector<T>>{});
      } else {
        body(tag, act, std::integral_constant<int, 1>{});
      }
    });
  });
  check_launch(what);
}

}  // namespace

void activation_cuda(const ActivationArgs& args, void* stream) {
  const int64_t n = args.x.numel();
  if (n == 0) return;
  const auto packs = [&](int) { return is_aligned(args.x.data, 16) && is_aligned(args.y.data, 16); };
  dispatch_all("activation", args.x.dtype, args.kind, packs, [&](auto tag, auto act, auto pack) {
    using T = typename decltype(tag)::type;
    constexpr int N = decltype(pack)::value;
    forward_kernel<N><<<grid_size(n, kThreads * N), kThreads, 0, stream_of(stream)>>>(data_of<T>(args.x),
                                                                                      data_of<T>(args.y), n, act);
  });
}

void activation_backward_cuda(const ActivationBackwardArgs& args, void* stream) {
  const int64_t n = args.x.numel();
  if (n == 0) return;
  const auto packs = [&](int) {
    return is_aligned(args.x.data, 16) && is_aligned(args.dy.data, 16) && is_aligned(args.dx.data, 16);
  };
  dispatch_all("activation_backward", args.x.dtype, args.kind, packs, [&](auto tag, auto act, auto pack) {
    using T = typename decltype(tag)::type;
    constexpr int N = decltype(pack)::value;
    backward_kernel<N><<<grid_size(n, kThreads * N), kThreads, 0, stream_of(stream)>>>(
        data_of<T>(args.dy), data_of<T>(args.x), data_of<T>(args.dx), n, act);
  });
}

void gated_activation_cuda(const GatedActivationArgs& args, void* stream) {
  const int64_t n = args.y.numel();
  if (n == 0) return;
  const auto packs = [&](int count) { return allows_packs(args.x, count) && allows_packs(args.y, count); };
  dispatch_all("gated_activation", args.x.dtype, args.kind, packs, [&](auto tag, auto act, auto pack) {
    using T = typename decltype(tag)::type;
    constexpr int N = decltype(pack)::value;
    gated_forward_kernel<N><<<grid_size(n / N, kThreads), kThreads, 0, stream_of(stream)>>>(
        data_of<T>(args.x), data_of<T>(args.y), packs_of(n / N), Divisor(args.x.shape.back() / N), act);
  });
}

void gated_activation_backward_cuda(const GatedActivationBackwardArgs& args, void* stream) {
  const int64_t n = args.dy.numel();
  if (n == 0) return;
  const auto packs = [&](int count) {
    return allows_packs(args.x, count) && allows_packs(args.dy, count) && allows_packs(args.dx, count);
  };
  dispatch_all("gated_activation_backward", args.x.dtype, args.kind, packs, [&](auto tag, auto act, auto pack) {
    using T = typename decltype(tag)::type;
    constexpr int N = decltype(pack)::value;
    gated_backward_kernel<N><<<grid_size(n / N, kThreads), kThreads, 0, stream_of(stream)>>>(
        data_of<T>(args.dy), data_of<T>(args.x), data_of<T>(args.dx), packs_of(n / N), Divisor(args.x.shape.back() / N),
        act);
  });
}

}  // namespace megatron
