// CUDA kernels of attention for every type and for dimensions up to 256, with plain multiplications: 32 keys at a time
// through shared memory, one lane per key for scores, one lane per column for products with them. The 16-bit types take
// the tensor-core kernels of attention_mma_cuda.cu where those apply. The gradient has one kernel for dq, which walks
// the keys of a block of rows, and one for dk and dv, which walks the rows of a block of keys: every sum has one order.
#include <algorithm>

#include "kernels/attention/attention_view.cuh"

namespace megatron {
namespace cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kKeys = kWarp;  ///< keys of a tile, one per lane
constexpr int kPitch = kKeys + 1;
constexpr int kMaxDimension = 256;

/// Rows of a block: less for fp64, so that dimensions of 256 fit shared memory.
template <typename A>
constexpr int kRows = sizeof(A) == 8 ? 16 : 32;

__device__ __forceinline__ double exp_of(double x) {
  return exp(x);
}
__device__ __forceinline__ float exp_of(float x) {
  return expf(x);
}

/// An odd number of elements, so that a column of a tile lies in different banks.
__host__ __device__ constexpr int odd(int n) {
  return n | 1;
}

/// tile[r][c] = row(r)[c] for c < width, else 0, up to `columns`; row(r) may be null: zeros.
template <typename A, typename RowOf>
__device__ __forceinline__ void load_tile(A* tile, int pitch, int rows, int width, int columns, const RowOf& row) {
  for (int r = static_cast<int>(threadIdx.x) / kWarp; r < rows; r += kWarps) {
    const auto* from = row(r);
    for (int c = static_cast<int>(threadIdx.x) % kWarp; c < columns; c += kWarp) {
      tile[r * pitch + c] = from != nullptr && c < width ? to_accumulator<A>(from[c]) : A(0);
    }
  }
}

/// Keys that any row of the block sees. Holds for all threads after its barriers.
template <int R>
__device__ __forceinline__ Keys block_keys(const AttentionView& p, int first_row, int b) {
  __shared__ Keys ranges[R];
  if (threadIdx.x < R) ranges[threadIdx.x] = row_keys(p, first_row + static_cast<int>(threadIdx.x), b);
  __syncthreads();
  Keys all{p.keys, 0};
  for (int r = 0; r < R; ++r) {
    if (ranges[r].begin >= ranges[r].end) continue;
    all.begin = min(all.begin, ranges[r].begin);
    all.end = max(all.end, ranges[r].end);
  }
  __syncthreads();
  return all;
}

/// scores[i] = sum_x rows[warp + 8 i][x] keys[lane][x].
template <int RW, typename A>
__device__ __forceinline__ void dot_rows(A (&scores)[RW], const A* rows, int row_pitch, const A* keys, int key_pitch,
                                         int width) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
#pragma unroll
  for (int i = 0; i < RW; ++i) scores[i] = A(0);
  for (int x = 0; x < width; ++x) {
    const A key = keys[lane * key_pitch + x];
#pragma unroll
    for (int i = 0; i < RW; ++i) scores[i] += rows[(warp + kWarps * i) * row_pitch + x] * key;
  }
}

/// sums[i][j] += sum_c weights[warp + 8 i][c] values[c][lane + 32 j], over the keys of a tile.
template <int RW, int NJ, typename A>
__device__ __forceinline__ void add_values(A (&sums)[RW][NJ], const A* weights, const A* values, int pitch) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (int c = 0; c < kKeys; ++c) {
#pragma unroll
    for (int j = 0; j < NJ; ++j) {
      const A value = values[c * pitch + lane + kWarp * j];
#pragma unroll
      for (int i = 0; i < RW; ++i) sums[i][j] += weights[(warp + kWarps * i) * kPitch + c] * value;
    }
  }
}

/// row[lane + 32 j] = values[j] * factor, below `width`.
template <typename T, typename A, int NJ>
__device__ __forceinline__ void store_row(T* row, const A (&values)[NJ], A factor, int width) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int j = 0; j < NJ; ++j) {
    if (lane + kWarp * j < width) row[lane + kWarp * j] = from_accumulator<T>(values[j] * factor);
  }
}

/// The running softmax of the rows of a warp.
template <typename A, int RW, int NJ>
struct ForwardState {
  Keys keys[RW];
  DropoutToken token[RW];
  A top[RW], sum[RW], out[RW][NJ];
};

/// The scores of one key for each row, as probabilities (after dropout) into p_tile; what was summed so far is scaled
/// to the new maximum.
template <typename A, int RW, int NJ>
__device__ __forceinline__ void softmax_step(const AttentionView& p, ForwardState<A, RW, NJ>& state,
                                             const A (&scores)[RW], int key, A* p_tile) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const A scale = static_cast<A>(p.scale), lowest = -A(INFINITY);
#pragma unroll
  for (int i = 0; i < RW; ++i) {
    const bool visible = key >= state.keys[i].begin && key < state.keys[i].end;
    const A score = visible ? scores[i] * scale : lowest;
    const A highest = warp_max(score), top = highest > state.top[i] ? highest : state.top[i];
    const A shift = top == lowest ? A(0) : top;  // none yet, or none that is a number
    A probability = visible ? exp_of(score - shift) : A(0);
    const A decay = state.top[i] == lowest ? A(1) : exp_of(state.top[i] - shift);
    state.sum[i] = state.sum[i] * decay + warp_sum(probability);
    state.top[i] = top;
    if (p.dropout && visible) probability *= dropout_factor<A>(p, state.token[i], key);
    p_tile[(warp + kWarps * i) * kPitch + lane] = probability;
#pragma unroll
    for (int j = 0; j < NJ; ++j) state.out[i][j] *= decay;
  }
}

template <typename T, int NJ, int R>
__global__ void __launch_bounds__(kThreads) forward_kernel(const __grid_constant__ AttentionView p) {
  using A = Accumulator<T>;
  constexpr int RW = R / kWarps, kColumns = NJ * kWarp;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, pitch = odd(p.d);
  A* q_tile = reinterpret_cast<A*>(launch_memory());
  A* k_tile = q_tile + R * pitch;
  A* v_tile = k_tile + kKeys * pitch;
  A* p_tile = v_tile + kKeys * kColumns;
  const BlockPlace place = block_place(p);
  const int b = place.b, g = place.g;
  const int first_row = (static_cast<int>(div_ceil(p.rows, R)) - 1 - place.index) * R;  // many keys first
  const Keys all = block_keys<R>(p, first_row, b);
  load_tile(q_tile, pitch, R, p.d, p.d, [&](int r) -> const T* {
    const int n = first_row + r;
    return n < p.rows ? p.q.row<const T>(n / p.heads, b, g, n % p.heads) : nullptr;
  });
  ForwardState<A, RW, NJ> state;
#pragma unroll
  for (int i = 0; i < RW; ++i) {
    const int n = first_row + warp + kWarps * i;
    state.keys[i] = row_keys(p, n, b);
    if (p.dropout && n < p.rows) state.token[i] = row_token(p, n, b, g);
    state.top[i] = -A(INFINITY);
    state.sum[i] = A(0);
#pragma unroll
    for (int j = 0; j < NJ; ++j) state.out[i][j] = A(0);
  }
  for (int t = all.begin; t < all.end; t += kKeys) {
    __syncthreads();
    load_tile(k_tile, pitch, kKeys, p.d, p.d,
              [&](int r) { return t + r < all.end ? p.k.row<const T>(t + r, b, g) : nullptr; });
    load_tile(v_tile, kColumns, kKeys, p.e, kColumns,
              [&](int r) { return t + r < all.end ? p.v.row<const T>(t + r, b, g) : nullptr; });
    __syncthreads();
    A scores[RW];
    dot_rows<RW>(scores, q_tile, pitch, k_tile, pitch, p.d);
    softmax_step(p, state, scores, t + lane, p_tile);
    __syncwarp();
    add_values(state.out, p_tile, v_tile, kColumns);
  }
#pragma unroll
  for (int i = 0; i < RW; ++i) {
    const int n = first_row + warp + kWarps * i;
    if (n >= p.rows) continue;
    const int s = n / p.heads, h = n % p.heads;
    const bool empty = state.keys[i].begin >= state.keys[i].end;
    if (p.lse.data != nullptr && lane == 0) {
      *p.lse.row<A>(s, b, g, h) = empty ? std::numeric_limits<A>::lowest() : state.top[i] + log(state.sum[i]);
    }
    if (p.out.data == nullptr) continue;
    store_row(p.out.row<T>(s, b, g, h), state.out[i], empty ? A(0) : A(1) / state.sum[i], p.e);
  }
}

/// mean[b, g, n] = sum_x dout[n][x] out[n][x], one warp per row.
template <typename T>
__global__ void __launch_bounds__(kThreads) mean_kernel(const __grid_constant__ AttentionView p) {
  using A = Accumulator<T>;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const BlockPlace place = block_place(p);
  const int n = place.index * kWarps + warp;
  if (n >= p.rows) return;
  const T* out = p.out.row<const T>(n / p.heads, place.b, place.g, n % p.heads);
  const T* dout = p.dout.row<const T>(n / p.heads, place.b, place.g, n % p.heads);
  A sum = A(0);
  for (int x = lane; x < p.e; x += kWarp) sum += to_accumulator<A>(out[x]) * to_accumulator<A>(dout[x]);
  sum = warp_sum(sum);
  if (lane == 0) static_cast<A*>(p.mean)[(int64_t{place.b} * p.groups + place.g) * p.rows + n] = sum;
}

/// What the gradient needs of a row.
template <typename A>
struct RowState {
  Keys keys;
  A lse, mean;
  DropoutToken token;
};

template <typename A>
__device__ __forceinline__ RowState<A> row_state(const AttentionView& p, int n, int b, int g) {
  RowState<A> state{};
  if (n >= p.rows) return state;
  state.keys = row_keys(p, n, b);
  state.lse = *p.lse.row<const A>(n / p.heads, b, g, n % p.heads);
  state.mean = static_cast<const A*>(p.mean)[(int64_t{b} * p.groups + g) * p.rows + n];
  if (p.dropout) state.token = row_token(p, n, b, g);
  return state;
}

/// From the score and the gradient of the probability: the probability after dropout, and the gradient of the score.
template <typename A>
__device__ __forceinline__ void score_gradient(const AttentionView& p, const RowState<A>& row, int key, A score,
                                               A gradient, A* probability, A* dscore) {
  const A scale = static_cast<A>(p.scale);
  *probability = *dscore = A(0);
  if (key < row.keys.begin || key >= row.keys.end) return;
  const A factor = p.dropout ? dropout_factor<A>(p, row.token, key) : A(1);
  const A plain = exp_of(score * scale - row.lse);
  *probability = plain * factor;
  *dscore = plain * (gradient * factor - row.mean) * scale;
}

template <typename T, int NJ, int R>
__global__ void __launch_bounds__(kThreads) dq_kernel(const __grid_constant__ AttentionView p) {
  using A = Accumulator<T>;
  constexpr int RW = R / kWarps, kColumns = NJ * kWarp, kKeyPitch = kColumns + 1;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, d_pitch = odd(p.d), e_pitch = odd(p.e);
  A* q_tile = reinterpret_cast<A*>(launch_memory());
  A* dout_tile = q_tile + R * d_pitch;
  A* k_tile = dout_tile + R * e_pitch;
  A* v_tile = k_tile + kKeys * kKeyPitch;
  A* ds_tile = v_tile + kKeys * e_pitch;
  const BlockPlace place = block_place(p);
  const int b = place.b, g = place.g;
  const int first_row = (static_cast<int>(div_ceil(p.rows, R)) - 1 - place.index) * R;
  const Keys all = block_keys<R>(p, first_row, b);
  const auto row_of = [&](const Strided& x, int r) -> const T* {
    const int n = first_row + r;
    return n < p.rows ? x.row<const T>(n / p.heads, b, g, n % p.heads) : nullptr;
  };
  load_tile(q_tile, d_pitch, R, p.d, p.d, [&](int r) { return row_of(p.q, r); });
  load_tile(dout_tile, e_pitch, R, p.e, p.e, [&](int r) { return row_of(p.dout, r); });
  RowState<A> state[RW];
  A dq[RW][NJ];
#pragma unroll
  for (int i = 0; i < RW; ++i) {
    state[i] = row_state<A>(p, first_row + warp + kWarps * i, b, g);
#pragma unroll
    for (int j = 0; j < NJ; ++j) dq[i][j] = A(0);
  }
  for (int t = all.begin; t < all.end; t += kKeys) {
    __syncthreads();
    load_tile(k_tile, kKeyPitch, kKeys, p.d, kColumns,
              [&](int r) { return t + r < all.end ? p.k.row<const T>(t + r, b, g) : nullptr; });
    load_tile(v_tile, e_pitch, kKeys, p.e, p.e,
              [&](int r) { return t + r < all.end ? p.v.row<const T>(t + r, b, g) : nullptr; });
    __syncthreads();
    A scores[RW], gradients[RW];
    dot_rows<RW>(scores, q_tile, d_pitch, k_tile, kKeyPitch, p.d);
    dot_rows<RW>(gradients, dout_tile, e_pitch, v_tile, e_pitch, p.e);
#pragma unroll
    for (int i = 0; i < RW; ++i) {
      A probability, dscore;
      score_gradient(p, state[i], t + lane, scores[i], gradients[i], &probability, &dscore);
      ds_tile[(warp + kWarps * i) * kPitch + lane] = dscore;
    }
    __syncwarp();
    add_values(dq, ds_tile, k_tile, kKeyPitch);
  }
#pragma unroll
  for (int i = 0; i < RW; ++i) {
    const int n = first_row + warp + kWarps * i;
    if (n < p.rows) store_row(p.dq.row<T>(n / p.heads, b, g, n % p.heads), dq[i], A(1), p.d);
  }
}

template <typename T, int NJ, int R>
__global__ void __launch_bounds__(kThreads) dkv_kernel(const __grid_constant__ AttentionView p) {
  using A = Accumulator<T>;
  constexpr int RW = R / kWarps, KW = kKeys / kWarps, kColumns = NJ * kWarp, kRowPitch = kColumns + 1;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, d_pitch = odd(p.d), e_pitch = odd(p.e);
  A* q_tile = reinterpret_cast<A*>(launch_memory());
  A* dout_tile = q_tile + R * kRowPitch;
  A* k_tile = dout_tile + R * kRowPitch;
  A* v_tile = k_tile + kKeys * d_pitch;
  A* p_tile = v_tile + kKeys * e_pitch;
  A* ds_tile = p_tile + R * kPitch;
  const BlockPlace place = block_place(p);
  const int b = place.b, g = place.g, first_key = place.index * kKeys;
  load_tile(k_tile, d_pitch, kKeys, p.d, p.d,
            [&](int r) { return first_key + r < p.keys ? p.k.row<const T>(first_key + r, b, g) : nullptr; });
  load_tile(v_tile, e_pitch, kKeys, p.e, p.e,
            [&](int r) { return first_key + r < p.keys ? p.v.row<const T>(first_key + r, b, g) : nullptr; });
  A dk[KW][NJ] = {}, dv[KW][NJ] = {};
  const Keys queries = seeing_queries(p, first_key, min(first_key + kKeys, p.keys));
  for (int first_row = queries.begin * p.heads; first_row < queries.end * p.heads; first_row += R) {
    const auto row_of = [&](const Strided& x, int r) -> const T* {
      const int n = first_row + r;
      return n < p.rows ? x.row<const T>(n / p.heads, b, g, n % p.heads) : nullptr;
    };
    __syncthreads();
    load_tile(q_tile, kRowPitch, R, p.d, kColumns, [&](int r) { return row_of(p.q, r); });
    load_tile(dout_tile, kRowPitch, R, p.e, kColumns, [&](int r) { return row_of(p.dout, r); });
    __syncthreads();
    A scores[RW], gradients[RW];
    dot_rows<RW>(scores, q_tile, kRowPitch, k_tile, d_pitch, p.d);
    dot_rows<RW>(gradients, dout_tile, kRowPitch, v_tile, e_pitch, p.e);
#pragma unroll
    for (int i = 0; i < RW; ++i) {
      const int r = warp + kWarps * i;
      const RowState<A> state = row_state<A>(p, first_row + r, b, g);
      score_gradient(p, state, first_key + lane, scores[i], gradients[i], &p_tile[r * kPitch + lane],
                     &ds_tile[r * kPitch + lane]);
    }
    __syncthreads();
    for (int r = 0; r < R; ++r) {
#pragma unroll
      for (int j = 0; j < NJ; ++j) {
        const A query = q_tile[r * kRowPitch + lane + kWarp * j], dout = dout_tile[r * kRowPitch + lane + kWarp * j];
#pragma unroll
        for (int i = 0; i < KW; ++i) {
          dk[i][j] += ds_tile[r * kPitch + warp + kWarps * i] * query;
          dv[i][j] += p_tile[r * kPitch + warp + kWarps * i] * dout;
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < KW; ++i) {
    const int key = first_key + warp + kWarps * i;
    if (key >= p.keys) continue;
    if (p.dk.data != nullptr) store_row(p.dk.row<T>(key, b, g), dk[i], A(1), p.d);
    if (p.dv.data != nullptr) store_row(p.dv.row<T>(key, b, g), dv[i], A(1), p.e);
  }
}

// ------------------------------------------------------------------------------------------------------------- launch

/// body(std::integral_constant<int, NJ>) for the number of 32 columns that `width` needs: 1, 2, 4 or 8.
template <typename Body>
void with_columns(int width, Body&& body) {
  if (width <= 32) return body(std::integral_constant<int, 1>{});
  if (width <= 64) return body(std::integral_constant<int, 2>{});
  if (width <= 128) return body(std::integral_constant<int, 4>{});
  body(std::integral_constant<int, 8>{});
}

template <typename T>
void launch_forward(const AttentionView& p, void* stream) {
  using A = Accumulator<T>;
  constexpr int R = kRows<A>;
  with_columns(p.e, [&](auto columns) {
    constexpr int NJ = columns.value;
    const int64_t elements = (R + kKeys) * odd(p.d) + kKeys * NJ * kWarp + R * kPitch;
    launch_attention(forward_kernel<T, NJ, R>, "attention", div_ceil(p.rows, R) * p.batch * p.groups, kThreads,
                     elements * static_cast<int64_t>(sizeof(A)), stream, p);
  });
}

template <typename T>
void launch_backward(const AttentionView& p, void* stream) {
  using A = Accumulator<T>;
  constexpr int R = kRows<A>;
  const int64_t pairs = int64_t{p.batch} * p.groups;
  if (p.dq.data != nullptr && p.rows > 0) {
    with_columns(p.d, [&](auto columns) {
      constexpr int NJ = columns.value;
      const int64_t elements = R * (odd(p.d) + odd(p.e)) + kKeys * (NJ * kWarp + 1 + odd(p.e)) + R * kPitch;
      launch_attention(dq_kernel<T, NJ, R>, "attention_backward: dq", div_ceil(p.rows, R) * pairs, kThreads,
                       elements * static_cast<int64_t>(sizeof(A)), stream, p);
    });
  }
  if ((p.dk.data != nullptr || p.dv.data != nullptr) && p.keys > 0) {
    with_columns(std::max(p.d, p.e), [&](auto columns) {
      constexpr int NJ = columns.value;
      const int64_t elements = 2 * R * (NJ * kWarp + 1) + kKeys * (odd(p.d) + odd(p.e)) + 2 * R * kPitch;
      launch_attention(dkv_kernel<T, NJ, R>, "attention_backward: dk, dv", div_ceil(p.keys, kKeys) * pairs, kThreads,
                       elements * static_cast<int64_t>(sizeof(A)), stream, p);
    });
  }
}

// -------------------------------------------------------------------------------------------------------------- views

/// [s, b, g, h] or [s, b, g, h, inner].
Strided strided(const Tensor& t) {
  if (t.data == nullptr) return {};
  return {t.data, t.strides[0], t.strides[1], t.strides[2], t.strides[3]};
}

/// [t, b, g, inner]: the fourth stride is that of the elements.
Strided strided_keys(const Tensor& t) {
  if (t.data == nullptr) return {};
  return {t.data, t.strides[0], t.strides[1], t.strides[2], 0};
}

PerQuery per_query(const Tensor& t) {
  if (t.data == nullptr) return {};
  return {data_of<int32_t>(t), t.strides[0], t.strides[1]};
}

AttentionView make_view(const AttentionArgs& a) {
  AttentionView p;
  p.q = strided(a.q);
  p.k = strided_keys(a.k);
  p.v = strided_keys(a.v);
  p.out = strided(a.out);
  p.lse = strided(a.lse);
  p.starts = per_query(a.starts);
  p.last_key = per_query(a.last_key);
  p.queries = narrow<int>(a.q.shape[0]);
  p.batch = narrow<int>(a.q.shape[1]);
  p.groups = narrow<int>(a.q.shape[2]);
  p.heads = narrow<int>(a.q.shape[3]);
  p.d = narrow<int>(a.q.shape[4]);
  p.e = narrow<int>(a.v.shape[3]);
  p.keys = narrow<int>(a.k.shape[0]);
  p.rows = narrow<int>(a.q.shape[0] * a.q.shape[3]);
  p.query_places = a.query_places;
  p.key_places = a.key_places;
  p.window_left = a.options.window_left;
  p.window_right = a.options.window_right;
  p.causal = a.options.causal;
  p.scale = a.options.softmax_scale;
  if (a.options.dropout > 0) {
    p.dropout = true;
    p.kept = 1.0 / (1.0 - a.options.dropout);
    p.seed = a.options.seed;
    p.name_hash = hash_name(a.options.name);
    p.threshold = dropout_threshold(a.options.dropout);
    p.step = data_of<int64_t>(a.step);
    p.sample = data_of<int64_t>(a.sample);
    p.sample_stride = a.sample.strides[0];
    p.position = per_query(a.position);
    p.first_group = a.first_group;
    p.first_head = a.first_head;
    p.heads_per_group = a.sizes.heads_per_group;
  }
  MEGATRON_CHECK(p.d <= kMaxDimension && p.e <= kMaxDimension,
                 "attention on the GPU takes head dimensions up to 256, not " + std::to_string(std::max(p.d, p.e)));
  return p;
}

bool all_allow_vectors(std::initializer_list<const Tensor*> tensors) {
  return std::all_of(tensors.begin(), tensors.end(), [](const Tensor* t) { return allows_packs(*t, 8); });
}

/// One row of queries per block of x, one element per thread.
template <typename A>
__global__ void lowest_kernel(A* lse, int64_t queries, Divisor groups, Divisor heads, Strided strides) {
  const int64_t query = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const uint32_t row = blockIdx.y, pair = heads.divide(row), h = row - pair * heads.value;
  const uint32_t b = groups.divide(pair), g = pair - b * groups.value;
  if (query < queries)
    lse[query * strides.s + b * strides.b + g * strides.g + h * strides.h] = std::numeric_limits<A>::lowest();
}

}  // namespace
}  // namespace cuda

void fill_lowest_cuda(const Tensor& lse, void* stream) {
  using namespace cuda;  // NOLINT
  const Dims& shape = lse.shape;
  if (lse.numel() == 0) return;
  dispatch_cuda("fill_lowest", lse.dtype, [&](auto tag) {
    using A = typename decltype(tag)::type;
    if constexpr (std::is_same_v<A, float> || std::is_same_v<A, double>) {
      const dim3 grid(grid_size(shape[0], kThreads), grid_size(shape[1] * shape[2] * shape[3], 1));
      lowest_kernel<A><<<grid, kThreads, 0, stream_of(stream)>>>(data_of<A>(lse), shape[0], Divisor(shape[2]),
                                                                 Divisor(shape[3]), strided(lse));
      check_launch("fill_lowest");
    }
  });
}

void attention_own_cuda(const AttentionArgs& args, void* workspace, void* stream) {
  using namespace cuda;  // NOLINT
  AttentionView p = make_view(args);
  if (p.rows == 0 || p.batch == 0 || p.groups == 0) return;
  p.vectors = size_of(args.q.dtype) == 2 && all_allow_vectors({&args.q, &args.k, &args.v, &args.out});
  p.splits = narrow<int>(attention_splits_cuda(args));
  p.partial = static_cast<float*>(workspace);
  if (p.splits > 1) return attention_decode_cuda(p, args.q.dtype, stream);
  if (attention_mma_cuda(p, args.q.dtype, stream)) return;
  dispatch_cuda("attention", args.q.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch_forward<T>(p, stream);
  });
}

void attention_backward_own_cuda(const AttentionBackwardArgs& args, void* workspace, void* stream) {
  using namespace cuda;  // NOLINT
  const AttentionArgs& f = args.forward;
  AttentionView p = make_view(f);
  p.dout = strided(args.dout);
  p.dq = strided(args.dq);
  p.dk = strided_keys(args.dk);
  p.dv = strided_keys(args.dv);
  p.mean = workspace;
  if (p.batch == 0 || p.groups == 0) return;
  p.vectors =
      size_of(f.q.dtype) == 2 && all_allow_vectors({&f.q, &f.k, &f.v, &args.dout, &args.dq, &args.dk, &args.dv});
  dispatch_cuda("attention_backward", f.q.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (p.rows > 0) {
      launch_attention(mean_kernel<T>, "attention_backward: mean", div_ceil(p.rows, kWarps) * p.batch * p.groups,
                       kThreads, 0, stream, p);
    }
    if (!attention_backward_mma_cuda(p, f.q.dtype, stream)) launch_backward<T>(p, stream);
  });
}

}  // namespace megatron
