#include <algorithm>

#include "kernels/common.h"
#include "kernels/dropout/dropout.h"
#include "kernels/random/dropout_mask.h"

namespace megatron {
namespace {

constexpr int64_t kChunk = 256;  // channels whose multipliers are made at a time

template <typename T, typename O>
void run(const DropoutArgs& args, ThreadPool* pool) {
  using A = Accumulator<O>;
  const int64_t c = args.x.shape[2], batch = args.x.shape[1], tokens = args.x.shape[0] * batch;
  const T* x = args.x.as<T>();
  const T* bias = args.bias ? args.bias.as<T>() : nullptr;
  const O* residual = args.residual ? args.residual.as<O>() : nullptr;
  O* y = args.y.as<O>();
  const bool random = args.options.p > 0;
  const int64_t step = random ? *args.step.as<int64_t>() : 0;
  const int64_t* sample = random ? args.sample.as<int64_t>() : nullptr;
  const int32_t* position = random ? args.position.as<int32_t>() : nullptr;
  const DropoutMask mask(args.options.p, args.options.seed, args.options.name);
  pool->parallel_for(tokens, rows_per_block(c), [&](int64_t begin, int64_t end) {
    A multipliers[kChunk];
    std::fill(multipliers, multipliers + kChunk, A(1));
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t i = 0; i < c; i += kChunk) {
        const int64_t n = std::min(kChunk, c - i);
        if (random) mask.fill(args.first_channel + i, n, position[t], sample[t % batch], step, multipliers);
        const T* xr = x + t * c + i;
        const O* rr = residual ? residual + t * c + i : nullptr;
        O* yr = y + t * c + i;
        for (int64_t j = 0; j < n; ++j) {
          A v = static_cast<A>(xr[j]);
          if (bias) v += static_cast<A>(bias[i + j]);
          // A dropped infinity is dropped, not NaN.
          v = multipliers[j] == A(0) ? A(0) : v * multipliers[j];
          if (rr) v += static_cast<A>(rr[j]);
          yr[j] = O(v);
        }
      }
    }
  });
}

}  // namespace

void dropout_cpu(const DropoutArgs& args, ThreadPool* pool) {
  dispatch_floating("dropout", args.x.dtype, [&](auto in_type) {
    dispatch_floating("dropout", args.y.dtype,
                      [&](auto out_type) { run<decltype(in_type), decltype(out_type)>(args, pool); });
  });
}

}  // namespace megatron
