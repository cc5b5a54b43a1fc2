#include <cmath>

#include "kernels/rmsnorm/norm_cpu.h"
#include "kernels/rmsnorm/rmsnorm.h"

namespace megatron {
namespace {

using namespace norm_cpu;  // NOLINT: helpers of this folder

/// value(i) is element i of the rounded sum.
template <typename TY, typename A, typename Source>
A normalise_row(int64_t n, double epsilon, A offset, const TY* gamma, TY* y, Source&& value) {
  const A square = lane_sum<A>(n, [&](int64_t i) { return value(i) * value(i); });
  const A rstd = A(1) / std::sqrt(square / static_cast<A>(n) + static_cast<A>(epsilon));
  if (y) {
    for (int64_t i = 0; i < n; ++i) y[i] = TY(value(i) * rstd * (static_cast<A>(gamma[i]) + offset));
  }
  return rstd;
}

template <typename TX, typename TY>
void forward(const RmsNormArgs& args, ThreadPool* pool) {
  using A = Accumulator<TX>;
  const int64_t n = args.x.shape.back();
  const Rows<TX> x(args.x), residual(args.residual), sum(args.sum);
  const Rows<TY> y(args.y);
  const TY* gamma = args.gamma.as<TY>();
  A* rstd = args.rstd ? args.rstd.as<A>() : nullptr;
  const A offset = args.options.zero_centered ? A(1) : A(0);
  pool->parallel_for(row_count(args.x), rows_per_block(n), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const TX *xr = x[row], *rr = residual[row];
      if (TX* sr = sum[row]) {
        for (int64_t i = 0; i < n; ++i) sr[i] = rr ? TX(static_cast<A>(xr[i]) + static_cast<A>(rr[i])) : xr[i];
        xr = sr;
        rr = nullptr;
      }
      A r;
      if (rr) {
        r = normalise_row<TY, A>(n, args.options.epsilon, offset, gamma, y[row], [&](int64_t i) {
          return static_cast<A>(TX(static_cast<A>(xr[i]) + static_cast<A>(rr[i])));
        });
      } else {
        r = normalise_row<TY, A>(n, args.options.epsilon, offset, gamma, y[row],
                                 [&](int64_t i) { return static_cast<A>(xr[i]); });
      }
      if (rstd) rstd[row] = r;
    }
  });
}

template <typename TX, typename TY>
void backward(const RmsNormBackwardArgs& args, void* workspace, ThreadPool* pool) {
  using A = Accumulator<TX>;
  const int64_t n = args.x.shape.back(), rows = row_count(args.x);
  const int64_t block = gradient_block_rows(rows), blocks = div_ceil(rows, block);
  const Rows<TX> x(args.x), dsum(args.dsum), dx(args.dx);
  const Rows<TY> dy(args.dy);
  const TY* gamma = args.gamma.as<TY>();
  const A* rstd = args.rstd.as<A>();
  A* partial = args.dgamma ? static_cast<A*>(workspace) : nullptr;
  const A offset = args.options.zero_centered ? A(1) : A(0);
  pool->parallel_for(blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      A* dgamma = partial ? partial + b * n : nullptr;
      if (dgamma) std::fill(dgamma, dgamma + n, A(0));
      for (int64_t row = b * block; row < std::min((b + 1) * block, rows); ++row) {
        const TX* xr = x[row];
        const TY* dyr = dy[row];
        const A r = rstd[row];
        if (dgamma) {
          for (int64_t i = 0; i < n; ++i) dgamma[i] += static_cast<A>(dyr[i]) * (static_cast<A>(xr[i]) * r);
        }
        if (!dx) continue;
        const auto g = [&](int64_t i) { return static_cast<A>(dyr[i]) * (static_cast<A>(gamma[i]) + offset); };
        const A mean =
            lane_sum<A>(n, [&](int64_t i) { return g(i) * (static_cast<A>(xr[i]) * r); }) / static_cast<A>(n);
        store_gradient<TX, A>(n, dx[row], dsum[row], args.add_dx,
                              [&](int64_t i) { return r * (g(i) - static_cast<A>(xr[i]) * r * mean); });
      }
    }
  });
  if (partial) combine(partial, blocks, n, n, args.dgamma.as<A>(), args.add_dgamma);
}

}  // namespace

int64_t norm_gradient_workspace_cpu(const Tensor& x, int parameters) {
  return kGradientBlocks * x.shape.back() * parameters * size_of(accumulation_dtype(x.dtype));
}

void rmsnorm_cpu(const RmsNormArgs& args, ThreadPool* pool) {
  dispatch_pair("rmsnorm", args.x.dtype, args.gamma.dtype,
                [&](auto x, auto y) { forward<decltype(x), decltype(y)>(args, pool); });
}

void rmsnorm_backward_cpu(const RmsNormBackwardArgs& args, void* workspace, ThreadPool* pool) {
  dispatch_pair("rmsnorm_backward", args.x.dtype, args.gamma.dtype,
                [&](auto x, auto y) { backward<decltype(x), decltype(y)>(args, workspace, pool); });
}

}  // namespace megatron
