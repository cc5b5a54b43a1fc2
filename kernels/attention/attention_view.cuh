// What the CUDA kernels of attention share: the arguments as plain numbers, which keys a row sees, and dropout. A row
// is a query of one head: row n of a (sample, group) is query n / heads, head n % heads, so that heads of one group
// share the keys that a block reads.
#pragma once

#include <limits>

#include "kernels/attention/attention.h"
#include "kernels/cuda/cuda_types.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/random/dropout_mask.h"

namespace megatron::cuda {

/// Strided [s, b, g, h, inner]; h is 0 for keys and values.
struct Strided {
  void* data = nullptr;
  int64_t s = 0, b = 0, g = 0, h = 0;

  template <typename T>
  __device__ __forceinline__ T* row(int s_index, int b_index, int g_index, int h_index = 0) const {
    return static_cast<T*>(data) + s_index * s + b_index * b + g_index * g + h_index * h;
  }
};

/// Optional [s, b] int32.
struct PerQuery {
  const int32_t* data = nullptr;
  int64_t s = 0, b = 0;

  __device__ __forceinline__ int64_t at(int s_index, int b_index) const { return data[s_index * s + b_index * b]; }
};

struct AttentionView {
  Strided q, k, v, out, lse, dout, dq, dk, dv;
  float* partial = nullptr;  ///< sums of parts of the keys (attention_decode_cuda.cu)
  int splits = 1;            ///< parts of the keys
  void* mean = nullptr;      ///< [b, g, row] in the accumulator's type: sum of dout * out
  PerQuery starts, last_key, position;
  const int64_t* step = nullptr;
  const int64_t* sample = nullptr;
  int64_t sample_stride = 0;
  int queries = 0, keys = 0, batch = 0, groups = 0, heads = 0, d = 0, e = 0;
  int rows = 0;  ///< queries * heads
  RowPlaces query_places, key_places;
  int64_t window_left = -1, window_right = -1;
  bool causal = false, dropout = false;
  bool vectors = false;  ///< all rows can be walked in 16-byte pieces (16-bit types)
  double scale = 1, kept = 1;
  uint64_t seed = 0, name_hash = 0, threshold = 0;
  int64_t first_group = 0, first_head = 0, heads_per_group = 0;
};

/// Keys [begin, end); none when begin >= end.
struct Keys {
  int begin, end;
};

/// As visible_keys() of key_range.h.
__device__ __forceinline__ Keys visible_keys(const AttentionView& p, int s, int b) {
  const int64_t aligned = p.last_key.data != nullptr ? p.last_key.at(s, b) : p.query_places.at(s);
  if (p.last_key.data != nullptr && aligned < 0) return {};
  int64_t begin = 0, end = p.keys;
  const RowPlaces& keys = p.key_places;
  if (p.window_left >= 0) begin = max(begin, keys.rows_below(aligned - p.window_left));
  if (p.starts.data != nullptr) begin = max(begin, keys.rows_below(p.starts.at(s, b)));
  if (p.window_right >= 0) end = min(end, keys.rows_below(aligned + p.window_right + 1));
  if (p.causal || p.last_key.data != nullptr) end = min(end, keys.rows_below(aligned + 1));
  if (begin >= end) return {};
  return {static_cast<int>(begin), static_cast<int>(end)};
}

/// Keys of row n; none past the last row.
__device__ __forceinline__ Keys row_keys(const AttentionView& p, int n, int b) {
  return n < p.rows ? visible_keys(p, n / p.heads, b) : Keys{};
}

/// Queries [begin, end) that may see one of the keys [first, last): all that do, perhaps more.
__device__ __forceinline__ Keys seeing_queries(const AttentionView& p, int first, int last) {
  int64_t begin = 0, end = p.queries;
  const RowPlaces& queries = p.query_places;
  const int64_t lowest = p.key_places.at(first), highest = p.key_places.at(last - 1);
  if (p.causal) begin = max(begin, queries.rows_below(lowest));
  if (p.window_right >= 0) begin = max(begin, queries.rows_below(lowest - p.window_right));
  if (p.window_left >= 0) end = min(end, queries.rows_below(highest + p.window_left + 1));
  if (begin >= end) return {};
  return {static_cast<int>(begin), static_cast<int>(end)};
}

__device__ __forceinline__ DropoutToken row_token(const AttentionView& p, int n, int b, int g) {
  const int s = n / p.heads, h = n % p.heads;
  const uint64_t head = static_cast<uint64_t>((p.first_group + g) * p.heads_per_group + p.first_head + h);
  return dropout_token(dropout_key(p.seed, p.name_hash, head), *p.step, p.sample[b * p.sample_stride],
                       static_cast<int32_t>(p.position.at(s, b)));
}

/// 0 or 1 / (1 - dropout).
template <typename A>
__device__ __forceinline__ A dropout_factor(const AttentionView& p, const DropoutToken& token, int key) {
  const auto place = static_cast<uint32_t>(p.key_places.at(key));
  const Philox4 words = dropout_words(token, place / 4);
  const uint32_t i = place % 4;
  const uint32_t low = i == 0 ? words.v[0] : words.v[1], high = i == 2 ? words.v[2] : words.v[3];
  return (i < 2 ? low : high) >= p.threshold ? static_cast<A>(p.kept) : A(0);
}

/// A block's place: its (sample, group), and its block of rows or keys. (Sample, group) moves fastest.
struct BlockPlace {
  int b, g, index;
};
__device__ __forceinline__ BlockPlace block_place(const AttentionView& p) {
  const int pairs = p.batch * p.groups, pair = static_cast<int>(blockIdx.x) % pairs;
  return {pair / p.groups, pair % p.groups, static_cast<int>(blockIdx.x) / pairs};
}

/// Memory that the launch sized.
__device__ __forceinline__ char* launch_memory() {
  extern __shared__ __align__(16) char attention_memory[];
  return attention_memory;
}

/// Launches with `bytes` of such memory.
template <typename... Parameters>
void launch_attention(void (*kernel)(Parameters...), const char* what, int64_t blocks, int threads, int64_t bytes,
                      void* stream, const AttentionView& view) {
  if (bytes > 48 * 1024) {
    check_cuda(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(bytes)),
               what);
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(grid_size(blocks, 1));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(bytes);
  config.stream = stream_of(stream);
  check_cuda(cudaLaunchKernelEx(&config, kernel, view), what);
}

/// Few rows against many keys, in 16-bit types; with p.splits > 1.
void attention_decode_cuda(const AttentionView& view, DType dtype, void* stream);

// Each says whether it took the case (16-bit types, dimensions up to 128); attention_mma_cuda.cu.
bool attention_mma_cuda(const AttentionView& view, DType dtype, void* stream);
bool attention_backward_mma_cuda(const AttentionView& view, DType dtype, void* stream);

}  // namespace megatron::cuda
