// How the CUDA kernels of both norms cut their work. Depends on shapes and types only, so that the plan knows the
// workspace without a device, and sums have one order.
#pragma once

#include <algorithm>

#include "base/check.h"
#include "tensor/tensor.h"

namespace megatron::norm_cuda {

constexpr int kBlockThreads = 128;     ///< threads of a block that takes several rows at a time
constexpr int64_t kGroupBlocks = 528;  ///< blocks of the backward at 128 threads; fewer when blocks are larger
constexpr int64_t kLongBlocks = 64;    ///< cuts of the rows for parameter gradients of rows beyond registers

/// Threads that share a row, and packs (16 bytes of the wider type) of the row that each of them holds. 0 threads:
/// the row does not fit registers.
struct RowCut {
  int threads = 0, packs = 0;
};

constexpr int64_t pack_elements(int64_t x_size, int64_t y_size) {
  return 16 / std::max(x_size, y_size);
}

constexpr RowCut forward_cut(int64_t packs) {
  if (packs <= 8) return {8, 1};
  if (packs <= 16) return {16, 1};
  if (packs <= 32) return {32, 1};
  if (packs <= 128) return {32, 4};
  if (packs <= 512) return {128, 4};
  if (packs <= 1024) return {256, 4};
  if (packs <= 2048) return {512, 4};
  if (packs <= 4096) return {512, 8};
  return {};
}

/// The backward also holds the parameters' gradients, and loads the next row while it works on one.
constexpr RowCut backward_cut(int64_t packs) {
  if (packs <= 8) return {8, 1};
  if (packs <= 16) return {16, 1};
  if (packs <= 32) return {32, 1};
  if (packs <= 128) return {128, 1};
  if (packs <= 256) return {128, 2};
  if (packs <= 512) return {256, 2};
  if (packs <= 1024) return {512, 2};
  if (packs <= 2048) return {512, 4};
  return {};
}

/// Blocks of the backward: each leaves one partial sum per parameter.
inline int64_t backward_blocks(int64_t rows, const RowCut& cut) {
  if (cut.threads == 0) return std::min(rows, kLongBlocks);
  const int64_t threads = std::max(cut.threads, kBlockThreads);
  return std::min(div_ceil(rows, threads / cut.threads), kGroupBlocks * kBlockThreads / threads);
}

}  // namespace megatron::norm_cuda
