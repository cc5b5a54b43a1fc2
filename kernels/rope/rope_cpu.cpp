// CPU kernel of the rotary position embedding. cos and sin are made once per token and shared by its heads; tokens of
// one row of the sequence that stand at the same position share them too.
#include <algorithm>
#include <cmath>

#include "base/thread_pool.h"
#include "kernels/rope/rope.h"

namespace megatron {
namespace {

template <typename A>
void fill_token(const RopeArgs& args, int32_t position, A* cosines, A* sines) {
  const std::vector<double>& frequencies = args.table->inv_freq;
  const double place = static_cast<double>(position) / args.interpolation;
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double angle = place * frequencies[i];
    cosines[i] = static_cast<A>(args.table->concentration * std::cos(angle));
    sines[i] = static_cast<A>(args.table->concentration * (args.inverse ? -std::sin(angle) : std::sin(angle)));
  }
}

/// Rotates one head; x and y may be the same memory. `step` separates the two channels of a pair, `stride` the pairs.
template <typename T, bool kAdd>
void rotate_head(const T* x, T* y, const Accumulator<T>* cosines, const Accumulator<T>* sines, int64_t pairs,
                 int64_t step, int64_t stride, int64_t d) {
  using A = Accumulator<T>;
  for (int64_t i = 0; i < pairs; ++i) {
    const int64_t first = i * stride, second = first + step;
    const A x1 = static_cast<A>(x[first]), x2 = static_cast<A>(x[second]);
    A y1 = x1 * cosines[i] - x2 * sines[i], y2 = x2 * cosines[i] + x1 * sines[i];
    if constexpr (kAdd) {
      y1 += static_cast<A>(y[first]);
      y2 += static_cast<A>(y[second]);
    }
    y[first] = static_cast<T>(y1);
    y[second] = static_cast<T>(y2);
  }
  for (int64_t i = 2 * pairs; i < d; ++i) {
    if constexpr (kAdd) {
      y[i] = static_cast<T>(static_cast<A>(y[i]) + static_cast<A>(x[i]));
    } else {
      y[i] = x[i];
    }
  }
}

template <typename T, bool kAdd>
void rotate_token(const RopeArgs& args, int64_t s, int64_t b, const Accumulator<T>* cosines,
                  const Accumulator<T>* sines) {
  const Dims& shape = args.x.shape;
  const int last = shape.rank() - 1;
  const int64_t d = shape[last], pairs = static_cast<int64_t>(args.table->inv_freq.size());
  const int64_t step = args.interleaved ? 1 : pairs, stride = args.interleaved ? 2 : 1;
  const T* x = args.x.as<T>() + s * args.x.strides[0] + b * args.x.strides[1];
  T* y = args.y.as<T>() + s * args.y.strides[0] + b * args.y.strides[1];
  int64_t heads = 1;
  for (int i = 2; i < last; ++i) heads *= shape[i];
  for (int64_t head = 0; head < heads; ++head) {
    int64_t rest = head, x_offset = 0, y_offset = 0;
    for (int i = last - 1; i >= 2; --i) {
      x_offset += rest % shape[i] * args.x.strides[i];
      y_offset += rest % shape[i] * args.y.strides[i];
      rest /= shape[i];
    }
    rotate_head<T, kAdd>(x + x_offset, y + y_offset, cosines, sines, pairs, step, stride, d);
  }
}

}  // namespace

int64_t rope_workspace_cpu(const RopeArgs& args) {
  const int64_t tokens = args.x.shape[0] * args.x.shape[1], pairs = static_cast<int64_t>(args.table->inv_freq.size());
  return 2 * tokens * pairs * size_of(accumulation_dtype(args.x.dtype));
}

void rope_cpu(const RopeArgs& args, void* workspace, ThreadPool* pool) {
  if (args.x.numel() == 0) return;
  dispatch_floating("rope", args.x.dtype, [&](auto tag) {
    using T = decltype(tag);
    using A = Accumulator<T>;
    const int64_t batch = args.x.shape[1], pairs = static_cast<int64_t>(args.table->inv_freq.size());
    const Tensor& positions = args.position;
    pool->parallel_for(args.x.shape[0], 8, [&](int64_t begin, int64_t end) {
      for (int64_t s = begin; s < end; ++s) {
        A* row = static_cast<A*>(workspace) + s * batch * 2 * pairs;
        int32_t previous = 0;
        A* table = nullptr;
        for (int64_t b = 0; b < batch; ++b) {
          const int32_t position = positions.as<int32_t>()[s * positions.strides[0] + b * positions.strides[1]];
          if (table == nullptr || position != previous) {
            table = row + b * 2 * pairs;
            fill_token(args, position, table, table + pairs);
            previous = position;
          }
          if (args.add) {
            rotate_token<T, true>(args, s, b, table, table + pairs);
          } else {
            rotate_token<T, false>(args, s, b, table, table + pairs);
          }
        }
      }
    });
  });
}

}  // namespace megatron
