#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "kernels/attention_merge/attention_merge.h"
#include "kernels/common.h"

namespace megatron {
namespace {

/// Of one row: weights[i] = exp(lse_i - lse); returns lse.
template <typename A>
A merge_weights(const AttentionMergeArgs& args, int64_t at, std::array<A, kMostMergedParts>& weights) {
  constexpr A kNone = std::numeric_limits<A>::lowest(), kLeast = std::numeric_limits<float>::lowest();
  const size_t parts = args.lses.size();
  A top = kNone, sum = 0;
  for (const Tensor& lse : args.lses) top = std::max(top, lse.as<A>()[at]);
  for (size_t i = 0; i < parts; ++i) {
    const A lse = args.lses[i].as<A>()[at];
    weights[i] = lse <= kLeast ? A(0) : std::exp(lse - top);
    sum += weights[i];
  }
  if (sum == 0) return kNone;
  for (size_t i = 0; i < parts; ++i) weights[i] /= sum;
  return top + std::log(sum);
}

template <typename T>
void merge_row(const AttentionMergeArgs& args, int64_t row, const std::array<Accumulator<T>, kMostMergedParts>& w) {
  using A = Accumulator<T>;
  const int64_t width = args.out.shape.back();
  T* out = args.out.as<T>() + row * width;
  for (int64_t j = 0; j < width; ++j) {
    A sum = 0;
    for (size_t i = 0; i < args.outs.size(); ++i) {
      if (w[i] != 0) sum += w[i] * static_cast<A>(args.outs[i].as<T>()[row * width + j]);
    }
    out[j] = static_cast<T>(sum);
  }
}

}  // namespace

void attention_merge_cpu(const AttentionMergeArgs& args, ThreadPool* pool) {
  const Dims& shape = args.outs[0].shape;
  const int64_t heads = shape[1] * shape[2] * shape[3], rows = shape[0] * heads;
  dispatch_floating("attention_merge", args.outs[0].dtype, [&](auto tag) {
    using T = decltype(tag);
    using A = Accumulator<T>;
    pool->parallel_for(rows, rows_per_block(shape[4]), [&](int64_t begin, int64_t end) {
      std::array<A, kMostMergedParts> weights{};
      for (int64_t row = begin; row < end; ++row) {
        const int64_t at = row % heads * shape[0] + row / heads;  // lse has the queries innermost
        const A lse = merge_weights(args, at, weights);
        if (args.lse) args.lse.as<A>()[at] = lse;
        if (args.out) merge_row<T>(args, row, weights);
      }
    });
  });
}

}  // namespace megatron
