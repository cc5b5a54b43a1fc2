#include <algorithm>

#include "kernels/common.h"
#include "kernels/embedding/embedding.h"

namespace megatron {

void embedding_cpu(const EmbeddingArgs& args, ThreadPool* pool) {
  const int64_t rows = args.weight.shape[0], n = args.weight.shape[1];
  const int32_t* ids = args.ids.as<int32_t>();
  dispatch_floating("embedding", args.weight.dtype, [&](auto in_type) {
    dispatch_floating("embedding", args.y.dtype, [&](auto out_type) {
      using T = decltype(in_type);
      using O = decltype(out_type);
      const T* weight = args.weight.as<T>();
      O* y = args.y.as<O>();
      pool->parallel_for(args.ids.numel(), rows_per_block(n), [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
          const int64_t row = ids[t] - args.first_row;
          O* target = y + t * n;
          if (ids[t] < 0 || row < 0 || row >= rows) {
            std::fill(target, target + n, O{});
            continue;
          }
          const T* source = weight + row * n;
          for (int64_t i = 0; i < n; ++i) target[i] = O(static_cast<Accumulator<T>>(source[i]));
        }
      });
    });
  });
}

void embedding_backward_cpu(const EmbeddingBackwardArgs& args, ThreadPool* pool) {
  // Every block of table rows walks all tokens in order, so each row is summed by one thread in one order.
  constexpr int64_t kTableRows = 512;
  const int64_t rows = args.dweight.shape[0], n = args.dweight.shape[1], tokens = args.ids.numel();
  const int32_t* ids = args.ids.as<int32_t>();
  dispatch_floating("embedding_backward", args.dy.dtype, [&](auto type) {
    using T = decltype(type);
    using A = Accumulator<T>;
    const T* dy = args.dy.as<T>();
    A* dweight = args.dweight.as<A>();
    pool->parallel_for(div_ceil(rows, kTableRows), 1, [&](int64_t begin, int64_t end) {
      const int64_t first = begin * kTableRows, last = std::min(rows, end * kTableRows);
      if (!args.add) std::fill(dweight + first * n, dweight + last * n, A(0));
      for (int64_t t = 0; t < tokens; ++t) {
        const int64_t row = ids[t] - args.first_row;
        if (ids[t] < 0 || row < first || row >= last) continue;
        A* target = dweight + row * n;
        for (int64_t i = 0; i < n; ++i) target[i] += static_cast<A>(dy[t * n + i]);
      }
    });
  });
}

}  // namespace megatron
