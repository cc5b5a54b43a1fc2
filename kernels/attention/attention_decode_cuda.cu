// Attention of few rows over many keys (generation), which is bound by reading the cache: blocks take parts of the keys
// side by side, their sums are combined in the order of the parts (flash decoding, Dao et al. 2023). The four warps of
// a block hold the same 16 rows and take turns on tiles of 16 keys, each through shared memory of its own.
#include "kernels/attention/attention_softmax.cuh"

namespace megatron::cuda {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarp;
constexpr int kRows = 16;
constexpr int kKeys = 16;  ///< of a tile
constexpr int kStages = 2;
constexpr int kPad = 8;

/// What a block works on.
struct DecodePlace {
  int b, g, first_row, split;
};

__device__ __forceinline__ DecodePlace decode_place(const AttentionView& p) {
  const int pairs = p.batch * p.groups, split = static_cast<int>(blockIdx.x) % p.splits;
  const int rest = static_cast<int>(blockIdx.x) / p.splits, pair = rest % pairs;
  return {pair / p.groups, pair % p.groups, rest / pairs * kRows, split};
}

/// Rows [0, kKeys) of a tile from keys first .. of `x`, by one warp; zeros outside `range`.
template <typename T, int D>
__device__ __forceinline__ void fetch_rows(const AttentionView& p, const Strided& x, int width, Keys range, int b,
                                           int g, int first, T* tile) {
  constexpr int kPieces = D / 8;
  for (int i = threadIdx.x % kWarp; i < kKeys * kPieces; i += kWarp) {
    const int r = i / kPieces, c = i % kPieces * 8, key = first + r;
    T* to = tile + r * (D + kPad) + c;
    if (key < range.begin || key >= range.end || c >= width) {
      *reinterpret_cast<uint4*>(to) = uint4{0, 0, 0, 0};
      continue;
    }
    const T* from = x.row<const T>(key, b, g) + c;
    if (p.vectors) {
      copy_async(to, from);
    } else {
#pragma unroll
      for (int j = 0; j < 8; ++j) to[j] = c + j < width ? from[j] : from_accumulator<T>(0.0f);
    }
  }
}

/// The 16 rows of q, by the whole block.
template <typename T, int D>
__device__ __forceinline__ void load_queries(const AttentionView& p, const DecodePlace& at, T* tile) {
  for (int i = threadIdx.x; i < kRows * D; i += kThreads) {
    const int r = i / D, c = i % D, n = at.first_row + r;
    const bool real = n < p.rows && c < p.d;
    tile[r * (D + kPad) + c] =
        real ? p.q.row<const T>(n / p.heads, at.b, at.g, n % p.heads)[c] : from_accumulator<T>(0.0f);
  }
}

/// Where the sums of a part are: numbers of the row, and its top and sum behind them.
__device__ __forceinline__ float* partial_row(const AttentionView& p, int b, int g, int n, int split) {
  const int64_t row = (int64_t{b} * p.groups + g) * p.rows + n;
  return p.partial + (row * p.splits + split) * (p.e + 2);
}

/// The factor of a sum whose top is `top`, where the highest is `highest`; 0 for a sum of nothing.
__device__ __forceinline__ float share(float top, float highest) {
  return top == -INFINITY ? 0.0f : power_of_two(top - highest);
}

/// Adds up the warps' sums in their order and writes the block's rows.
template <int D>
__device__ __forceinline__ void store_partial(const AttentionView& p, const DecodePlace& at,
                                              const ForwardState<D / 8>& state, float* memory) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  float* sums = memory;                       // [warp][row][D]
  float* tops = memory + kWarps * kRows * D;  // [warp][row]
  float* totals = tops + kWarps * kRows;      // [warp][row]
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int r = lane / 4 + 8 * i;
    float sum = state.sum[i];
    sum += __shfl_xor_sync(kFullWarp, sum, 1);
    sum += __shfl_xor_sync(kFullWarp, sum, 2);
    if (lane % 4 == 0) {
      tops[warp * kRows + r] = state.top[i];
      totals[warp * kRows + r] = sum;
    }
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      float* to = sums + (warp * kRows + r) * D + 8 * n + 2 * (lane % 4);
      to[0] = state.out[n][2 * i];
      to[1] = state.out[n][2 * i + 1];
    }
  }
  __syncthreads();
  for (int r = warp; r < kRows && at.first_row + r < p.rows; r += kWarps) {
    float highest = -INFINITY, total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) highest = fmaxf(highest, tops[w * kRows + r]);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += totals[w * kRows + r] * share(tops[w * kRows + r], highest);
    float* to = partial_row(p, at.b, at.g, at.first_row + r, at.split);
    for (int c = lane; c < p.e; c += kWarp) {
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum += sums[(w * kRows + r) * D + c] * share(tops[w * kRows + r], highest);
      to[c] = sum;
    }
    if (lane == 0) {
      to[p.e] = highest;
      to[p.e + 1] = total;
    }
  }
}

template <typename T, int D>
__global__ void __launch_bounds__(kThreads) decode_mma(const __grid_constant__ AttentionView p) {
  constexpr int kPitch = D + kPad, kTile = kKeys * kPitch;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  T* q_tile = reinterpret_cast<T*>(launch_memory());
  T* tiles = q_tile + kRows * kPitch + warp * kStages * 2 * kTile;  // of this warp; stage: k, v
  const DecodePlace at = decode_place(p);
  const Keys own = lane < kRows ? row_keys(p, at.first_row + lane, at.b) : Keys{};
  const bool sees = own.begin < own.end;
  const int begin = __reduce_min_sync(kFullWarp, sees ? own.begin : p.keys);
  const int end = __reduce_max_sync(kFullWarp, sees ? own.end : 0);
  const int part = static_cast<int>(round_up(div_ceil(max(end - begin, 0), p.splits), kKeys));
  const Keys range{begin + at.split * part, min(begin + (at.split + 1) * part, end)};

  load_queries<T, D>(p, at, q_tile);
  __syncthreads();
  uint32_t q[D / 16][4];
#pragma unroll
  for (int k = 0; k < D / 16; ++k) load_a(q[k], q_tile, kPitch, 0, 16 * k);
  ForwardState<D / 8> state{};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    state.keys[i] = row_keys(p, at.first_row + lane / 4 + 8 * i, at.b);
    state.top[i] = -INFINITY;
  }
  const auto fetch = [&](int key, int stage) {
    if (key < range.end) {
      fetch_rows<T, D>(p, p.k, p.d, range, at.b, at.g, key, tiles + stage * 2 * kTile);
      fetch_rows<T, D>(p, p.v, p.e, range, at.b, at.g, key, tiles + stage * 2 * kTile + kTile);
    }
    commit_copies();
  };
  constexpr int kStep = kWarps * kKeys;
  const int first = range.begin + warp * kKeys;
  fetch(first, 0);
  for (int key = first, stage = 0; key < range.end; key += kStep, stage ^= 1) {
    fetch(key + kStep, stage ^ 1);
    wait_copies<1>();
    __syncwarp();
    const T* k_tile = tiles + stage * 2 * kTile;
    float scores[kKeys / 8][4] = {};
#pragma unroll
    for (int k = 0; k < D / 16; ++k) multiply_rows<T>(scores, q[k], k_tile, kPitch, 16 * k);
    softmax_tile(p, state, scores, key, true);
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      uint32_t probabilities[4];
      as_a<T>(probabilities, scores, k);
      multiply_columns<T>(state.out, probabilities, k_tile + kTile, kPitch, 16 * k);
    }
    __syncwarp();
  }
  wait_copies<0>();
  __syncthreads();  // the tiles become memory for the sums
  store_partial<D>(p, at, state, reinterpret_cast<float*>(launch_memory()));
}

/// out = sum over parts; one block a row. A warp sums every fourth part, then the warps' sums are added in their order.
template <typename T>
__global__ void __launch_bounds__(kThreads) combine_kernel(const __grid_constant__ AttentionView p) {
  constexpr int kColumns = 4;  // of a lane
  __shared__ float sums[kWarps][kColumns * kWarp], totals[kWarps];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, row = blockIdx.x;
  const int pair = row / p.rows, n = row % p.rows, b = pair / p.groups, g = pair % p.groups;
  const int size = p.e + 2;
  const float* from = partial_row(p, b, g, n, 0);
  float highest = -INFINITY;
  for (int i = lane; i < p.splits; i += kWarp) highest = fmaxf(highest, from[i * size + p.e]);
  highest = warp_max(highest);
  float total = 0, sum[kColumns] = {};
#pragma unroll 8
  for (int i = warp; i < p.splits; i += kWarps) {
    const float* part = from + i * size;
    const float factor = share(part[p.e], highest);
    total += part[p.e + 1] * factor;
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      if (lane + kWarp * j < p.e) sum[j] += part[lane + kWarp * j] * factor;
    }
  }
#pragma unroll
  for (int j = 0; j < kColumns; ++j) sums[warp][lane + kWarp * j] = sum[j];
  if (lane == 0) totals[warp] = total;
  __syncthreads();
  const int c = threadIdx.x;
  if (c >= p.e) return;
  float all = 0, value = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    all += totals[w];
    value += sums[w][c];
  }
  p.out.row<T>(n / p.heads, b, g, n % p.heads)[c] = from_accumulator<T>(all > 0 ? value / all : 0.0f);
}

template <typename T, int D>
void launch(const AttentionView& p, void* stream) {
  const int64_t pairs = int64_t{p.batch} * p.groups;
  const int64_t tiles = (kRows + kWarps * kStages * 2 * kKeys) * (D + kPad) * static_cast<int64_t>(sizeof(T));
  const int64_t sums = kWarps * kRows * (D + 2) * static_cast<int64_t>(sizeof(float));
  launch_attention(decode_mma<T, D>, "attention_cached", pairs * div_ceil(p.rows, kRows) * p.splits, kThreads,
                   tiles > sums ? tiles : sums, stream, p);
  launch_attention(combine_kernel<T>, "attention_cached: combine", pairs * p.rows, kThreads, 0, stream, p);
}

template <typename T>
void launch_for_width(const AttentionView& p, void* stream) {
  if (p.d <= 64 && p.e <= 64) return launch<T, 64>(p, stream);
  launch<T, 128>(p, stream);
}

}  // namespace

void attention_decode_cuda(const AttentionView& view, DType dtype, void* stream) {
  if (dtype == DType::kBF16) return launch_for_width<BF16>(view, stream);
  launch_for_width<F16>(view, stream);
}

}  // namespace megatron::cuda
