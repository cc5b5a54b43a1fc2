#include <cstring>

#include "kernels/cast/cast.h"
#include "kernels/common.h"

namespace megatron {

void cast_cpu(const CastArgs& args, ThreadPool* pool) {
  dispatch_floating("cast", args.x.dtype, [&](auto in_type) {
    dispatch_floating("cast", args.y.dtype, [&](auto out_type) {
      using T = decltype(in_type);
      using O = decltype(out_type);
      const T* x = args.x.as<T>();
      O* y = args.y.as<O>();
      for_elements(pool, args.x.numel(), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) y[i] = O(static_cast<Accumulator<T>>(x[i]));
      });
    });
  });
}

void fill_zero_cpu(const Tensor& state, ThreadPool* pool) {
  char* data = static_cast<char*>(state.data);
  const int64_t size = size_of(state.dtype);
  for_elements(pool, state.numel(), [&](int64_t begin, int64_t end) {
    std::memset(data + begin * size, 0, static_cast<size_t>((end - begin) * size));
  });
}

}  // namespace megatron
