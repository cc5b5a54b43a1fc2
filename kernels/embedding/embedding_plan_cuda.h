// The workspace of the CUDA gradient of the embedding: sizes only, so that the plan needs no device.
#pragma once

#include <cstdint>

#include "base/check.h"

namespace megatron::embedding_cuda_plan {

constexpr int kDigitBits = 8;
constexpr int kDigits = 1 << kDigitBits;
constexpr int64_t kTile = 512;  ///< tokens that one warp sorts
constexpr int kPiece = 32;      ///< sorted tokens that one block sums

/// Offsets in bytes.
struct Layout {
  int64_t keys[2], order[2], counts, partial, bytes;
};

inline Layout make_layout(int64_t tokens, int64_t channels, int64_t accumulator_size) {
  Layout layout{};
  const auto take = [&](int64_t bytes) {
    const int64_t offset = layout.bytes;
    layout.bytes += round_up(bytes, 256);
    return offset;
  };
  for (int i = 0; i < 2; ++i) {
    layout.keys[i] = take(tokens * 4);
    layout.order[i] = take(tokens * 4);
  }
  layout.counts = take(div_ceil(tokens, kTile) * kDigits * 4);
  layout.partial = take(div_ceil(tokens, kPiece) * 2 * channels * accumulator_size);
  return layout;
}

}  // namespace megatron::embedding_cuda_plan
