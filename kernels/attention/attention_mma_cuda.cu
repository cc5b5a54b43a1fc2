// Attention of 16-bit types on the tensor cores, for dimensions up to 128: the scheme of FlashAttention-2 (Dao 2023,
// arXiv:2307.08691) without sums across blocks. A warp owns 16 rows (forward, dq) or 16 keys (dk, dv) and keeps scores
// and sums in registers; the other side passes through shared memory, the next tile being fetched meanwhile.
#include <algorithm>

#include "kernels/attention/attention_softmax.cuh"

namespace megatron::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kRows = 128;     ///< rows of a block of forward and dq: 16 a warp
constexpr int kKeys = 64;      ///< keys of a tile of forward and dq
constexpr int kOwnKeys = 128;  ///< keys of a block of dk and dv: 16 a warp
constexpr int kRowTile = 32;   ///< rows of a tile of dk and dv: one a lane
constexpr int kPad = 8;        ///< elements after each row of a tile, against bank conflicts

/// Keys that the rows of a block see: some of them, and all of them.
struct BlockKeys {
  Keys any, all;
};

__device__ __forceinline__ BlockKeys block_keys(const AttentionView& p, int first_row, int b) {
  __shared__ Keys ranges[kRows];
  if (threadIdx.x < kRows) ranges[threadIdx.x] = row_keys(p, first_row + static_cast<int>(threadIdx.x), b);
  __syncthreads();
  BlockKeys keys{{p.keys, 0}, {0, p.keys}};
  for (int r = 0; r < kRows && first_row + r < p.rows; ++r) {
    const Keys range = ranges[r];
    keys.all.begin = max(keys.all.begin, range.begin);
    keys.all.end = min(keys.all.end, range.end);
    if (range.begin >= range.end) continue;
    keys.any.begin = min(keys.any.begin, range.begin);
    keys.any.end = max(keys.any.end, range.end);
  }
  return keys;
}

template <typename T>
struct RowPointers {
  const AttentionView& p;
  const Strided& x;
  int b, g, first;
  __device__ __forceinline__ const T* operator()(int r) const {
    const int n = first + r;
    return n < p.rows ? x.row<const T>(n / p.heads, b, g, n % p.heads) : nullptr;
  }
};

/// Keys outside `range` are zeros: their memory may never have been written.
template <typename T>
struct KeyPointers {
  const Strided& x;
  Keys range;
  int b, g, first;
  __device__ __forceinline__ const T* operator()(int r) const {
    const int t = first + r;
    return t >= range.begin && t < range.end ? x.row<const T>(t, b, g) : nullptr;
  }
};

/// Keys and values [first, first + kKeys), as one group of copies.
template <typename T, int D>
__device__ __forceinline__ void fetch_keys(const AttentionView& p, Keys range, int b, int g, int first, T* k_tile) {
  T* v_tile = k_tile + kKeys * (D + kPad);
  fetch_tile<D, kThreads>(k_tile, kKeys, p.d, p.vectors, KeyPointers<T>{p.k, range, b, g, first});
  fetch_tile<D, kThreads>(v_tile, kKeys, p.e, p.vectors, KeyPointers<T>{p.v, range, b, g, first});
  commit_copies();
}

/// Waits for all copies of all threads, but for the latest group where `more` is on its way.
__device__ __forceinline__ void wait_for_stage(bool more) {
  if (more) {
    wait_copies<1>();
  } else {
    wait_copies<0>();
  }
  __syncthreads();
}

/// c [16, 8 NT] += the warp's 16 rows of `own` times the transpose of the rows of `other`.
template <typename T, int D, int NT>
__device__ __forceinline__ void multiply_tiles(float (&c)[NT][4], const T* own, const T* other) {
  const int first = static_cast<int>(threadIdx.x) / kWarp * 16;
#pragma unroll
  for (int k = 0; k < D / 16; ++k) {
    uint32_t a[4];
    load_a(a, own, D + kPad, first, 16 * k);
    multiply_rows<T>(c, a, other, D + kPad, 16 * k);
  }
}

/// A lane's part of its row i (of two) of a C, times `factor`.
template <typename T, int NT>
__device__ __forceinline__ void store_part(T* row, const float (&c)[NT][4], int i, float factor, int width,
                                           bool vectors) {
#pragma unroll
  for (int n = 0; n < NT; ++n) {
    store_pair(row, 8 * n + 2 * (static_cast<int>(threadIdx.x) % 4), width, vectors, c[n][2 * i] * factor,
               c[n][2 * i + 1] * factor);
  }
}

/// Ends the sums of the warp's 16 rows from `first_row` on, and writes out and lse.
template <typename T, int NO>
__device__ __forceinline__ void store_forward(const AttentionView& p, const ForwardState<NO>& state, int b, int g,
                                              int first_row) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float sum = state.sum[i];
    sum += __shfl_xor_sync(kFullWarp, sum, 1);
    sum += __shfl_xor_sync(kFullWarp, sum, 2);
    const int n = first_row + lane / 4 + 8 * i;
    if (n >= p.rows) continue;
    const int s = n / p.heads, h = n % p.heads;
    const bool empty = state.keys[i].begin >= state.keys[i].end;
    if (p.lse.data != nullptr && lane % 4 == 0) {
      *p.lse.row<float>(s, b, g, h) = empty ? std::numeric_limits<float>::lowest() : state.top[i] / kLog2e + logf(sum);
    }
    if (p.out.data == nullptr) continue;
    store_part(p.out.row<T>(s, b, g, h), state.out, i, empty ? 0.0f : 1.0f / sum, p.e, p.vectors);
  }
}

template <typename T, int D>
__global__ void __launch_bounds__(kThreads, 1) forward_mma(const __grid_constant__ AttentionView p) {
  constexpr int kPitch = D + kPad, kTile = kKeys * kPitch;
  T* tiles = reinterpret_cast<T*>(launch_memory());  // stage 0: k, v; stage 1: k, v
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const BlockPlace place = block_place(p);
  const int b = place.b, g = place.g;
  const int first_row = (static_cast<int>(div_ceil(p.rows, kRows)) - 1 - place.index) * kRows;  // many keys first
  const BlockKeys seen = block_keys(p, first_row, b);
  const int begin = seen.any.begin / kKeys * kKeys;

  fetch_tile<D, kThreads>(tiles, kRows, p.d, p.vectors, RowPointers<T>{p, p.q, b, g, first_row});
  commit_copies();
  wait_copies<0>();
  __syncthreads();
  uint32_t q[D / 16][4];
#pragma unroll
  for (int k = 0; k < D / 16; ++k) load_a(q[k], tiles, kPitch, 16 * warp, 16 * k);
  __syncthreads();

  ForwardState<D / 8> state{};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int n = first_row + 16 * warp + lane / 4 + 8 * i;
    state.keys[i] = row_keys(p, n, b);
    state.top[i] = -INFINITY;
    if (p.dropout && n < p.rows) state.token[i] = row_token(p, n, b, g);
  }
  const auto fetch = [&](int key, int stage) { fetch_keys<T, D>(p, seen.any, b, g, key, tiles + stage * 2 * kTile); };
  if (begin < seen.any.end) fetch(begin, 0);
  for (int key = begin, stage = 0; key < seen.any.end; key += kKeys, stage ^= 1) {
    const bool more = key + kKeys < seen.any.end;
    if (more) fetch(key + kKeys, stage ^ 1);
    wait_for_stage(more);
    const T* k_tile = tiles + stage * 2 * kTile;
    float scores[kKeys / 8][4] = {};
#pragma unroll
    for (int k = 0; k < D / 16; ++k) multiply_rows<T>(scores, q[k], k_tile, kPitch, 16 * k);
    softmax_tile(p, state, scores, key, key < seen.all.begin || key + kKeys > seen.all.end);
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      uint32_t probabilities[4];
      as_a<T>(probabilities, scores, k);
      multiply_columns<T>(state.out, probabilities, k_tile + kTile, kPitch, 16 * k);
    }
    __syncthreads();
  }
  store_forward<T>(p, state, b, g, first_row + 16 * warp);
}

/// lse in base 2 and the mean of row n; infinity for a row that sees nothing, so that its probabilities are 0.
__device__ __forceinline__ void load_statistics(const AttentionView& p, int n, int b, int g, Keys keys, float* lse,
                                                float* mean) {
  *lse = INFINITY;
  *mean = 0;
  if (n >= p.rows || keys.begin >= keys.end) return;
  *lse = *p.lse.row<const float>(n / p.heads, b, g, n % p.heads) * kLog2e;
  *mean = static_cast<const float*>(p.mean)[(int64_t{b} * p.groups + g) * p.rows + n];
}

/// What dq needs of the two rows that a lane has a part of.
struct GradientRows {
  Keys keys[2];
  DropoutToken token[2];
  float lse[2], mean[2];
};

/// Of rows n and n + 8.
__device__ __forceinline__ GradientRows load_gradient_rows(const AttentionView& p, int n, int b, int g) {
  GradientRows rows{};
#pragma unroll
  for (int i = 0; i < 2; ++i, n += 8) {
    rows.keys[i] = row_keys(p, n, b);
    load_statistics(p, n, b, g, rows.keys[i], &rows.lse[i], &rows.mean[i]);
    if (p.dropout && n < p.rows) rows.token[i] = row_token(p, n, b, g);
  }
  return rows;
}

/// Scores [16 rows, keys] become their gradients.
__device__ __forceinline__ void score_gradients(const AttentionView& p, const GradientRows& rows, int first_key,
                                                bool masked, float (&scores)[kKeys / 8][4],
                                                const float (&gradients)[kKeys / 8][4]) {
  const float scale = static_cast<float>(p.scale);
#pragma unroll
  for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
    for (int x = 0; x < 4; ++x) {
      const int i = x / 2, t = first_key + 8 * n + 2 * (static_cast<int>(threadIdx.x) % 4) + x % 2;
      float probability = power_of_two(scores[n][x] * scale * kLog2e - rows.lse[i]);
      if (masked && (t < rows.keys[i].begin || t >= rows.keys[i].end)) probability = 0;
      float gradient = gradients[n][x];
      if (p.dropout) gradient *= dropout_factor<float>(p, rows.token[i], t);
      scores[n][x] = probability * (gradient - rows.mean[i]) * scale;
    }
  }
}

template <typename T, int D>
__global__ void __launch_bounds__(kThreads, 1) dq_mma(const __grid_constant__ AttentionView p) {
  constexpr int kPitch = D + kPad, kTile = kKeys * kPitch;
  T* q_tile = reinterpret_cast<T*>(launch_memory());
  T* dout_tile = q_tile + kRows * kPitch;
  T* tiles = dout_tile + kRows * kPitch;  // stage 0: k, v; stage 1: k, v
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const BlockPlace place = block_place(p);
  const int b = place.b, g = place.g;
  const int first_row = (static_cast<int>(div_ceil(p.rows, kRows)) - 1 - place.index) * kRows;
  const BlockKeys seen = block_keys(p, first_row, b);
  const int begin = seen.any.begin / kKeys * kKeys;

  const GradientRows rows = load_gradient_rows(p, first_row + 16 * warp + lane / 4, b, g);
  const auto fetch = [&](int key, int stage) { fetch_keys<T, D>(p, seen.any, b, g, key, tiles + stage * 2 * kTile); };
  float dq[D / 8][4] = {};
  fetch_tile<D, kThreads>(q_tile, kRows, p.d, p.vectors, RowPointers<T>{p, p.q, b, g, first_row});
  fetch_tile<D, kThreads>(dout_tile, kRows, p.e, p.vectors, RowPointers<T>{p, p.dout, b, g, first_row});
  if (begin < seen.any.end) fetch(begin, 0);
  for (int key = begin, stage = 0; key < seen.any.end; key += kKeys, stage ^= 1) {
    const bool more = key + kKeys < seen.any.end;
    if (more) fetch(key + kKeys, stage ^ 1);
    wait_for_stage(more);
    const T* k_tile = tiles + stage * 2 * kTile;
    float scores[kKeys / 8][4] = {}, gradients[kKeys / 8][4] = {};
    multiply_tiles<T, D>(scores, q_tile, k_tile);
    multiply_tiles<T, D>(gradients, dout_tile, k_tile + kTile);
    score_gradients(p, rows, key, key < seen.all.begin || key + kKeys > seen.all.end, scores, gradients);
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      uint32_t dscores[4];
      as_a<T>(dscores, scores, k);
      multiply_columns<T>(dq, dscores, k_tile, kPitch, 16 * k);
    }
    __syncthreads();
  }
  commit_copies();
  wait_copies<0>();
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int n = first_row + 16 * warp + lane / 4 + 8 * i;
    if (n >= p.rows) continue;
    store_part(p.dq.row<T>(n / p.heads, b, g, n % p.heads), dq, i, 1.0f, p.d, p.vectors);
  }
}

/// What dk and dv need of the rows of a tile, one row per lane of the first warp. A row that sees nothing is masked.
struct RowTile {
  Keys keys[kRowTile];
  float lse[kRowTile], mean[kRowTile];
  DropoutToken token[kRowTile];
  bool any, all;  ///< some row sees some key of the block; every row sees every key
};

__device__ __forceinline__ void load_row_tile(const AttentionView& p, int first_row, int b, int g, Keys own,
                                              RowTile* rows) {
  if (threadIdx.x >= kRowTile) return;
  const int r = threadIdx.x, n = first_row + r;
  const Keys keys = row_keys(p, n, b);
  rows->keys[r] = keys;
  if (n < p.rows) {
    copy_word_async(&rows->lse[r], p.lse.row<const float>(n / p.heads, b, g, n % p.heads));
    copy_word_async(&rows->mean[r], static_cast<const float*>(p.mean) + (int64_t{b} * p.groups + g) * p.rows + n);
  } else {
    rows->lse[r] = rows->mean[r] = 0;
  }
  if (p.dropout && n < p.rows) rows->token[r] = row_token(p, n, b, g);
  const bool any = __any_sync(kFullWarp, max(keys.begin, own.begin) < min(keys.end, own.end));
  const bool all = __all_sync(kFullWarp, keys.begin <= own.begin && keys.end >= own.end);
  if (r == 0) {
    rows->any = any;
    rows->all = all;
  }
}

/// Scores [16 keys, rows] become probabilities (after dropout), gradients those of the scores.
__device__ __forceinline__ void score_gradients(const AttentionView& p, const RowTile& rows, int first_key,
                                                float (&scores)[kRowTile / 8][4], float (&gradients)[kRowTile / 8][4]) {
  const int lane = threadIdx.x % kWarp;
  const float scale = static_cast<float>(p.scale);
#pragma unroll
  for (int n = 0; n < kRowTile / 8; ++n) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int r = 8 * n + 2 * (lane % 4) + j;
      const float lse = rows.lse[r] * kLog2e, mean = rows.mean[r];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float &score = scores[n][2 * i + j], &gradient = gradients[n][2 * i + j];
        const int t = first_key + lane / 4 + 8 * i;
        float probability = power_of_two(score * scale * kLog2e - lse);
        if (!rows.all && (t < rows.keys[r].begin || t >= rows.keys[r].end)) probability = 0;
        const float factor = p.dropout && probability != 0 ? dropout_factor<float>(p, rows.token[r], t) : 1.0f;
        gradient = probability * (gradient * factor - mean) * scale;
        score = probability * factor;
      }
    }
  }
}

template <typename T, int D>
__global__ void __launch_bounds__(kThreads, 1) dkv_mma(const __grid_constant__ AttentionView p) {
  constexpr int kPitch = D + kPad, kTile = kRowTile * kPitch;
  __shared__ RowTile row_tiles[2];
  T* k_tile = reinterpret_cast<T*>(launch_memory());
  T* v_tile = k_tile + kOwnKeys * kPitch;
  T* tiles = v_tile + kOwnKeys * kPitch;  // stage 0: q, dout; stage 1: q, dout
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const BlockPlace place = block_place(p);
  const int b = place.b, g = place.g, first_key = place.index * kOwnKeys;
  const Keys own{first_key, min(first_key + kOwnKeys, p.keys)};
  fetch_tile<D, kThreads>(k_tile, kOwnKeys, p.d, p.vectors, KeyPointers<T>{p.k, own, b, g, first_key});
  fetch_tile<D, kThreads>(v_tile, kOwnKeys, p.e, p.vectors, KeyPointers<T>{p.v, own, b, g, first_key});
  const auto fetch = [&](int row, int stage) {
    T* q_tile = tiles + stage * 2 * kTile;
    fetch_tile<D, kThreads>(q_tile, kRowTile, p.d, p.vectors, RowPointers<T>{p, p.q, b, g, row});
    fetch_tile<D, kThreads>(q_tile + kTile, kRowTile, p.e, p.vectors, RowPointers<T>{p, p.dout, b, g, row});
    load_row_tile(p, row, b, g, own, &row_tiles[stage]);
    commit_copies();
  };
  float dk[D / 8][4] = {}, dv[D / 8][4] = {};
  const Keys queries = seeing_queries(p, own.begin, own.end);
  const int end = queries.end * p.heads;
  if (queries.begin < queries.end) fetch(queries.begin * p.heads, 0);
  for (int row = queries.begin * p.heads, stage = 0; row < end; row += kRowTile, stage ^= 1) {
    const bool more = row + kRowTile < end;
    if (more) fetch(row + kRowTile, stage ^ 1);
    wait_for_stage(more);
    const RowTile& rows = row_tiles[stage];
    if (rows.any) {
      const T* q_tile = tiles + stage * 2 * kTile;
      const T* dout_tile = q_tile + kTile;
      float scores[kRowTile / 8][4] = {}, gradients[kRowTile / 8][4] = {};
      multiply_tiles<T, D>(scores, k_tile, q_tile);
      multiply_tiles<T, D>(gradients, v_tile, dout_tile);
      score_gradients(p, rows, first_key + 16 * warp, scores, gradients);
#pragma unroll
      for (int k = 0; k < kRowTile / 16; ++k) {
        uint32_t a[4];
        as_a<T>(a, scores, k);
        multiply_columns<T>(dv, a, dout_tile, kPitch, 16 * k);
        as_a<T>(a, gradients, k);
        multiply_columns<T>(dk, a, q_tile, kPitch, 16 * k);
      }
    }
    __syncthreads();
  }
  commit_copies();
  wait_copies<0>();
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int key = first_key + 16 * warp + lane / 4 + 8 * i;
    if (key >= p.keys) continue;
    if (p.dk.data != nullptr) store_part(p.dk.row<T>(key, b, g), dk, i, 1.0f, p.d, p.vectors);
    if (p.dv.data != nullptr) store_part(p.dv.row<T>(key, b, g), dv, i, 1.0f, p.e, p.vectors);
  }
}

template <typename T, int D>
constexpr int64_t tile_bytes(int64_t rows) {
  return rows * (D + kPad) * static_cast<int64_t>(sizeof(T));
}

template <typename T, int D>
void launch_forward(const AttentionView& p, void* stream) {
  const int64_t bytes = std::max(tile_bytes<T, D>(4 * kKeys), tile_bytes<T, D>(kRows));
  launch_attention(forward_mma<T, D>, "attention", div_ceil(p.rows, kRows) * p.batch * p.groups, kThreads, bytes,
                   stream, p);
}

template <typename T, int D>
void launch_backward(const AttentionView& p, void* stream) {
  const int64_t pairs = int64_t{p.batch} * p.groups;
  if (p.dq.data != nullptr && p.rows > 0) {
    launch_attention(dq_mma<T, D>, "attention_backward: dq", div_ceil(p.rows, kRows) * pairs, kThreads,
                     tile_bytes<T, D>(2 * kRows + 4 * kKeys), stream, p);
  }
  if ((p.dk.data != nullptr || p.dv.data != nullptr) && p.keys > 0) {
    launch_attention(dkv_mma<T, D>, "attention_backward: dk, dv", div_ceil(p.keys, kOwnKeys) * pairs, kThreads,
                     tile_bytes<T, D>(2 * kOwnKeys + 4 * kRowTile), stream, p);
  }
}

/// launch(Tag<T>, std::integral_constant<int, D>) for the type and the dimension that the kernels pad to.
template <typename Launch>
bool with_kernel(const AttentionView& p, DType dtype, Launch&& launch) {
  const int width = std::max(p.d, p.e);
  if (width > 128) return false;
  const auto with_type = [&](auto tag) {
    if (width <= 64) {
      launch(tag, std::integral_constant<int, 64>{});
    } else {
      launch(tag, std::integral_constant<int, 128>{});
    }
    return true;
  };
  if (dtype == DType::kBF16) return with_type(Tag<BF16>{});
  if (dtype == DType::kF16) return with_type(Tag<F16>{});
  return false;
}

}  // namespace

bool attention_mma_cuda(const AttentionView& view, DType dtype, void* stream) {
  return with_kernel(view, dtype, [&](auto tag, auto dimension) {
    using T = typename decltype(tag)::type;
    launch_forward<T, decltype(dimension)::value>(view, stream);
  });
}

bool attention_backward_mma_cuda(const AttentionView& view, DType dtype, void* stream) {
  return with_kernel(view, dtype, [&](auto tag, auto dimension) {
    using T = typename decltype(tag)::type;
    launch_backward<T, decltype(dimension)::value>(view, stream);
  });
}

}  // namespace megatron::cuda
