// How the CUDA kernels of both norms cut their work. Depends on shapes and types only, so that the plan knows the
// workspace without a device, and sums have one order.
#pragma once

#include <algorithm>

#include "base/check.h"
#include "tensor/tensor.h"

namespace megatron::norm {

/// A pack is 16 bytes of the wider type of x and y. Packs per thread; rows beyond kPacks[2] take kLongPacks, in memory
/// instead of registers.
constexpr int kForwardPacks = 4, kBackwardPacks = 2, kWidePacks = 4, kLongPacks = 16;
constexpr int kMaxThreads = 512;                          ///< that share a row held in registers
constexpr int kMaxLongThreads = 1024;                     ///< that share a longer row
constexpr int kForwardBlock = 128, kBackwardBlock = 256;  ///< threads of a block that takes several rows at a time
/// Threads of the backward in all: each of the 132 multiprocessors of an H100 holds 512 of 128 registers. A constant,
/// so that sums do not depend on the device.
constexpr int64_t kBackwardThreads = 132 * 512;

/// `threads` share a row, each has `packs` of it: thread t has the packs t, t + threads, ... A block takes `rows` rows.
struct RowCut {
  int threads = 0, packs = 0, rows = 0;
};

constexpr int64_t pack_elements(int64_t x_size, int64_t y_size) {
  return 16 / std::max(x_size, y_size);
}

constexpr RowCut make_cut(int64_t row_packs, int packs, int block) {
  const int64_t least = div_ceil(row_packs, packs);
  const int threads = least <= 8 ? 8 : least <= 16 ? 16 : static_cast<int>(round_up(least, 32));
  return {threads, packs, std::max(1, block / threads)};
}

constexpr RowCut forward_cut(int64_t row_packs) {
  if (row_packs <= 32) return make_cut(row_packs, 1, kForwardBlock);
  if (row_packs <= kForwardPacks * kMaxThreads) return make_cut(row_packs, kForwardPacks, kForwardBlock);
  return make_cut(row_packs, kLongPacks, kForwardBlock);
}

/// The backward also holds the parameters' gradients.
constexpr RowCut backward_cut(int64_t row_packs) {
  if (row_packs <= 32) return make_cut(row_packs, 1, kBackwardBlock);
  if (row_packs <= kBackwardPacks * kMaxThreads) return make_cut(row_packs, kBackwardPacks, kBackwardBlock);
  if (row_packs <= kWidePacks * kMaxThreads) return make_cut(row_packs, kWidePacks, kBackwardBlock);
  return make_cut(row_packs, kLongPacks, kBackwardBlock);
}

/// Blocks of the backward.
inline int64_t backward_blocks(int64_t rows, const RowCut& cut) {
  return std::min(div_ceil(rows, cut.rows), div_ceil(kBackwardThreads, int64_t{cut.threads} * cut.rows));
}

}  // namespace megatron::norm
