#include <cmath>

#include "kernels/layernorm/layernorm.h"
#include "kernels/rmsnorm/norm_cpu.h"

namespace megatron {
namespace {

using namespace norm_cpu;  // NOLINT: helpers of the norms

template <typename A>
struct Moments {
  A mean, rstd;
};

/// value(i) is element i of the rounded sum.
template <typename TY, typename A, typename Source>
Moments<A> normalise_row(int64_t n, double epsilon, A offset, const TY* gamma, const TY* beta, TY* y, Source&& value) {
  const A mean = lane_sum<A>(n, value) / static_cast<A>(n);
  const A variance =
      lane_sum<A>(n, [&](int64_t i) { return (value(i) - mean) * (value(i) - mean); }) / static_cast<A>(n);
  const A rstd = A(1) / std::sqrt(variance + static_cast<A>(epsilon));
  if (y) {
    for (int64_t i = 0; i < n; ++i) {
      y[i] = TY((value(i) - mean) * rstd * (static_cast<A>(gamma[i]) + offset) + static_cast<A>(beta[i]));
    }
  }
  return {mean, rstd};
}

template <typename TX, typename TY>
void forward(const LayerNormArgs& args, ThreadPool* pool) {
  using A = Accumulator<TX>;
  const int64_t n = args.x.shape.back();
  const Rows<TX> x(args.x), residual(args.residual), sum(args.sum);
  const Rows<TY> y(args.y);
  const TY *gamma = args.gamma.as<TY>(), *beta = args.beta.as<TY>();
  A* rstd = args.rstd ? args.rstd.as<A>() : nullptr;
  A* mean = args.mean ? args.mean.as<A>() : nullptr;
  const A offset = args.options.zero_centered ? A(1) : A(0);
  pool->parallel_for(row_count(args.x), rows_per_block(n), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const TX *xr = x[row], *rr = residual[row];
      if (TX* sr = sum[row]) {
        for (int64_t i = 0; i < n; ++i) sr[i] = rr ? TX(static_cast<A>(xr[i]) + static_cast<A>(rr[i])) : xr[i];
        xr = sr;
        rr = nullptr;
      }
      const double epsilon = args.options.epsilon;
      const Moments<A> moments =
          rr ? normalise_row<TY, A>(
                   n, epsilon, offset, gamma, beta, y[row],
                   [&](int64_t i) { return static_cast<A>(TX(static_cast<A>(xr[i]) + static_cast<A>(rr[i]))); })
             : normalise_row<TY, A>(n, epsilon, offset, gamma, beta, y[row],
                                    [&](int64_t i) { return static_cast<A>(xr[i]); });
      if (rstd) rstd[row] = moments.rstd;
      if (mean) mean[row] = moments.mean;
    }
  });
}

template <typename TX, typename TY>
void backward(const LayerNormBackwardArgs& args, void* workspace, ThreadPool* pool) {
  using A = Accumulator<TX>;
  const int64_t n = args.x.shape.back(), rows = row_count(args.x);
  const int64_t block = gradient_block_rows(rows), blocks = div_ceil(rows, block);
  const Rows<TX> x(args.x), dsum(args.dsum), dx(args.dx);
  const Rows<TY> dy(args.dy);
  const TY* gamma = args.gamma.as<TY>();
  const A *rstd = args.rstd.as<A>(), *mean = args.mean.as<A>();
  A* partial = args.dgamma || args.dbeta ? static_cast<A*>(workspace) : nullptr;
  const A offset = args.options.zero_centered ? A(1) : A(0);
  pool->parallel_for(blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      A* dgamma = partial ? partial + 2 * b * n : nullptr;
      A* dbeta = partial ? dgamma + n : nullptr;
      if (partial) std::fill(dgamma, dgamma + 2 * n, A(0));
      for (int64_t row = b * block; row < std::min((b + 1) * block, rows); ++row) {
        const TX* xr = x[row];
        const TY* dyr = dy[row];
        const A r = rstd[row], m = mean[row];
        const auto xhat = [&](int64_t i) { return (static_cast<A>(xr[i]) - m) * r; };
        if (partial) {
          for (int64_t i = 0; i < n; ++i) {
            dgamma[i] += static_cast<A>(dyr[i]) * xhat(i);
            dbeta[i] += static_cast<A>(dyr[i]);
          }
        }
        if (!dx) continue;
        const auto g = [&](int64_t i) { return static_cast<A>(dyr[i]) * (static_cast<A>(gamma[i]) + offset); };
        const A mean_g = lane_sum<A>(n, g) / static_cast<A>(n);
        const A mean_gx = lane_sum<A>(n, [&](int64_t i) { return g(i) * xhat(i); }) / static_cast<A>(n);
        store_gradient<TX, A>(n, dx[row], dsum[row], args.add_dx,
                              [&](int64_t i) { return r * (g(i) - mean_g - xhat(i) * mean_gx); });
      }
    }
  });
  if (args.dgamma) combine(partial, blocks, 2 * n, n, args.dgamma.as<A>(), args.add_dgamma);
  if (args.dbeta) combine(partial + n, blocks, 2 * n, n, args.dbeta.as<A>(), args.add_dbeta);
}

}  // namespace

void layernorm_cpu(const LayerNormArgs& args, ThreadPool* pool) {
  dispatch_pair("layernorm", args.x.dtype, args.gamma.dtype,
                [&](auto x, auto y) { forward<decltype(x), decltype(y)>(args, pool); });
}

void layernorm_backward_cpu(const LayerNormBackwardArgs& args, void* workspace, ThreadPool* pool) {
  dispatch_pair("layernorm_backward", args.x.dtype, args.gamma.dtype,
                [&](auto x, auto y) { backward<decltype(x), decltype(y)>(args, workspace, pool); });
}

}  // namespace megatron
