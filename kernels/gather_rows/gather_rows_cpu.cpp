// CPU kernels of gather_rows: a few rows only, so one thread.
#include <algorithm>
#include <string>

#include "base/check.h"
#include "kernels/gather_rows/gather_rows.h"

namespace megatron {
namespace {

/// Calls body(element of `whole`, element of `picked`) for the row of every sample.
template <typename Body>
void for_each_sample(const GatherRowsArgs& args, const Body& body) {
  const int64_t rows = args.whole.shape[0], batch = args.whole.shape[1], width = args.whole.shape[2];
  const int32_t* index = args.index.as<int32_t>();
  for (int64_t b = 0; b < batch; ++b) {
    MEGATRON_CHECK(index[b] >= 0 && index[b] < rows, "row " + std::to_string(index[b]) + " of sample " +
                                                         std::to_string(b) + " is outside [0, " + std::to_string(rows) +
                                                         ")");
    body((index[b] * batch + b) * width, b * width);
  }
}

}  // namespace

void gather_rows_cpu(const GatherRowsArgs& args) {
  if (args.picked.numel() == 0) return;
  dispatch_floating("gather_rows", args.whole.dtype, [&](auto tag) {
    using T = decltype(tag);
    for_each_sample(args, [&](int64_t whole, int64_t picked) {
      std::copy_n(args.whole.as<T>() + whole, args.whole.shape[2], args.picked.as<T>() + picked);
    });
  });
}

void scatter_rows_cpu(const GatherRowsArgs& args) {
  if (args.whole.numel() == 0) return;
  dispatch_floating("scatter_rows", args.whole.dtype, [&](auto tag) {
    using T = decltype(tag);
    using A = Accumulator<T>;
    T* dx = args.whole.as<T>();
    const T* dy = args.picked.as<T>();
    if (!args.add) std::fill_n(dx, args.whole.numel(), T(A(0)));
    for_each_sample(args, [&](int64_t whole, int64_t picked) {
      for (int64_t i = 0; i < args.whole.shape[2]; ++i) {
        dx[whole + i] = static_cast<T>(static_cast<A>(dx[whole + i]) + static_cast<A>(dy[picked + i]));
      }
    });
  });
}

}  // namespace megatron
