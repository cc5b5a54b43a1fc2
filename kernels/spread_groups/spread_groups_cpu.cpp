#include <cstring>

#include "kernels/common.h"
#include "kernels/spread_groups/pieces.h"

namespace megatron {

void spread_groups_cpu(const SpreadGroupsArgs& args) {
  for_each_piece(args, [](const Tensor& whole, const Tensor& part) {
    if (part.numel() > 0) std::memcpy(part.data, whole.data, static_cast<size_t>(part.bytes()));
  });
}

void gather_groups_cpu(const SpreadGroupsArgs& args, ThreadPool* pool) {
  if (!args.add && args.groups.numel() > 0) std::memset(args.groups.data, 0, static_cast<size_t>(args.groups.bytes()));
  dispatch_floating("gather_groups", args.groups.dtype, [&](auto tag) {
    using T = decltype(tag);
    using A = Accumulator<T>;
    for_each_piece(args, [&](const Tensor& whole, const Tensor& part) {
      T* sum = whole.as<T>();
      const T* x = part.as<T>();
      for_elements(pool, part.numel(), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) sum[i] = static_cast<T>(static_cast<A>(sum[i]) + static_cast<A>(x[i]));
      });
    });
  });
}

}  // namespace megatron
