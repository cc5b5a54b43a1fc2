#include "comm/reduce.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

namespace megatron {
namespace {

template <typename T>
struct Kept {
  using type = T;
};
template <>
struct Kept<BFloat16> {
  using type = float;
};
template <>
struct Kept<Float16> {
  using type = float;
};

template <typename K>
K larger(K a, K b) {
  if constexpr (std::is_floating_point_v<K>) {
    if (std::isnan(a) || std::isnan(b)) return a + b;
  }
  return a > b ? a : b;
}

/// In blocks, so that the loop over elements is the inner one and vectorises.
template <typename T>
void reduce(Reduction reduction, const std::vector<const void*>& sources, void* out, int64_t count) {
  using K = typename Kept<T>::type;
  constexpr int64_t kBlock = 1024;
  K kept[kBlock];
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t n = std::min(kBlock, count - begin);
    for (size_t r = 0; r < sources.size(); ++r) {
      const T* values = static_cast<const T*>(sources[r]) + begin;
      if (r == 0) {
        for (int64_t i = 0; i < n; ++i) kept[i] = static_cast<K>(values[i]);
      } else if (reduction == Reduction::kSum) {
        for (int64_t i = 0; i < n; ++i) kept[i] = static_cast<K>(kept[i] + static_cast<K>(values[i]));
      } else {
        for (int64_t i = 0; i < n; ++i) kept[i] = larger(kept[i], static_cast<K>(values[i]));
      }
    }
    T* target = static_cast<T*>(out) + begin;
    for (int64_t i = 0; i < n; ++i) target[i] = static_cast<T>(kept[i]);
  }
}

}  // namespace

void reduce_in_rank_order(Reduction reduction, DType dtype, const std::vector<const void*>& sources, void* out,
                          int64_t count) {
  switch (dtype) {
    case DType::kF64:
      return reduce<double>(reduction, sources, out, count);
    case DType::kF32:
      return reduce<float>(reduction, sources, out, count);
    case DType::kBF16:
      return reduce<BFloat16>(reduction, sources, out, count);
    case DType::kF16:
      return reduce<Float16>(reduction, sources, out, count);
    case DType::kI64:
      return reduce<int64_t>(reduction, sources, out, count);
    case DType::kI32:
      return reduce<int32_t>(reduction, sources, out, count);
    case DType::kU8:
      return reduce<uint8_t>(reduction, sources, out, count);
  }
}

}  // namespace megatron
