#include <algorithm>

#include "kernels/common.h"
#include "kernels/gradient_norm/gradient_norm.h"

namespace megatron {

int64_t sum_of_squares_workspace_cpu(int64_t count) {
  return div_ceil(count, kElementsPerBlock) * static_cast<int64_t>(sizeof(double));
}

void sum_of_squares_cpu(const Tensor& x, double* sum, void* workspace, ThreadPool* pool) {
  dispatch_floating("sum_of_squares", x.dtype, [&](auto type) {
    using T = decltype(type);
    const T* data = x.as<T>();
    double* partial = static_cast<double*>(workspace);
    const int64_t count = x.numel(), blocks = div_ceil(count, kElementsPerBlock);
    pool->parallel_for(blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        const T* block = data + b * kElementsPerBlock;
        partial[b] = lane_sum<double>(std::min(kElementsPerBlock, count - b * kElementsPerBlock), [&](int64_t i) {
          const double v = static_cast<double>(static_cast<Accumulator<T>>(block[i]));
          return v * v;
        });
      }
    });
    for (int64_t b = 0; b < blocks; ++b) *sum += partial[b];
  });
}

}  // namespace megatron
