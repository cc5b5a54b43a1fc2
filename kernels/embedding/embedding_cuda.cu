// Table lookup on the GPU. The gradient sorts the tokens by table row (stable, so that their order is kept), cuts the
// sorted list into pieces of fixed length, and sums every row's tokens in order: runs that lie within a piece go to the
// table at once, runs that cross pieces leave one partial sum per piece, which a second kernel adds in order. So the
// work is even however often a token occurs, and no sum depends on timing.
#include "kernels/cuda/cuda_types.cuh"
#include "kernels/embedding/embedding.h"
#include "kernels/embedding/embedding_plan_cuda.h"

namespace megatron {
namespace {

using namespace cuda;                 // NOLINT: device helpers
using namespace embedding_cuda_plan;  // NOLINT: sizes of the workspace

constexpr int kThreads = 256;
constexpr int kSumThreads = 128;
constexpr int kScanThreads = 1024;

/// One thread per pack of N elements of y.
template <int N, typename T, typename O>
__global__ void __launch_bounds__(kThreads)
    lookup_kernel(const T* __restrict__ weight, const int32_t* __restrict__ ids, O* __restrict__ y, int64_t total,
                  int64_t per_row, int64_t rows, int64_t first_row) {
  using A = Accumulator<T>;
  const int64_t pack = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (pack >= total) return;
  const int64_t token = divide(pack, per_row), column = (pack - token * per_row) * N;
  const int32_t id = ids[token];
  const int64_t row = id - first_row;
  A values[N] = {};
  if (id >= 0 && row >= 0 && row < rows) load_values<N>(weight + row * per_row * N + column, values);
  store_values<N>(y + pack * N, values);
}

// ---- stable radix sort of (row, token), kDigitBits at a time; a warp sorts kTile tokens

__device__ __forceinline__ int32_t key_of(const int32_t* ids, int64_t token, int64_t first_row, int64_t rows) {
  const int64_t row = ids[token] - first_row;
  return static_cast<int32_t>(ids[token] >= 0 && row >= 0 && row < rows ? row : rows);
}

/// keys[t] = row of token t, `rows` for tokens of no row here.
__global__ void __launch_bounds__(kThreads)
    keys_kernel(const int32_t* ids, int64_t tokens, int64_t first_row, int64_t rows, int32_t* keys, int32_t* order) {
  const int64_t token = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (token >= tokens) return;
  keys[token] = key_of(ids, token, first_row, rows);
  order[token] = static_cast<int32_t>(token);
}

constexpr int kEach = static_cast<int>(kTile) / kWarp;

/// The numbers of a tile that this thread has, all on their way at once: values[j] is at tile + j * kWarp + lane.
__device__ __forceinline__ void load_tile(const int32_t* from, int64_t tile, int64_t tokens, int32_t (&values)[kEach]) {
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const int64_t i = tile + j * kWarp + threadIdx.x;
    values[j] = i < tokens ? from[i] : 0;
  }
}

/// counts[digit * tiles + tile]: keys of the tile with that digit.
__global__ void __launch_bounds__(kWarp) count_kernel(const int32_t* keys, int64_t tokens, int shift, int32_t* counts) {
  __shared__ int32_t local[kDigits];
  for (int d = static_cast<int>(threadIdx.x); d < kDigits; d += kWarp) local[d] = 0;
  const int64_t begin = int64_t{blockIdx.x} * kTile;
  int32_t key[kEach];
  load_tile(keys, begin, tokens, key);
  __syncwarp();
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    if (begin + j * kWarp + threadIdx.x >= tokens) break;
    atomicAdd(&local[(key[j] >> shift) & (kDigits - 1)], 1);  // of integers: the result has no order
  }
  __syncwarp();
  for (int d = static_cast<int>(threadIdx.x); d < kDigits; d += kWarp)
    counts[int64_t{d} * gridDim.x + blockIdx.x] = local[d];
}

/// Exclusive prefix sums in place, by one block.
__global__ void __launch_bounds__(kScanThreads) scan_kernel(int32_t* counts, int64_t n) {
  constexpr int kCounts = 8, kWarps = kScanThreads / kWarp;
  __shared__ int32_t warps[kWarps];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  int32_t carry = 0;
  for (int64_t base = 0; base < n; base += int64_t{kScanThreads} * kCounts) {
    const int64_t first = base + int64_t{threadIdx.x} * kCounts;
    int32_t values[kCounts], sum = 0;
#pragma unroll
    for (int i = 0; i < kCounts; ++i) {
      values[i] = first + i < n ? counts[first + i] : 0;
      sum += values[i];
    }
    int32_t inclusive = sum;
#pragma unroll
    for (int step = 1; step < kWarp; step *= 2) {
      const int32_t other = __shfl_up_sync(kFullWarp, inclusive, step);
      if (lane >= step) inclusive += other;
    }
    __syncthreads();
    if (lane == kWarp - 1) warps[warp] = inclusive;
    __syncthreads();
    int32_t before = carry, total = carry;
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) before += warps[w];
      total += warps[w];
    }
    int32_t position = before + inclusive - sum;
#pragma unroll
    for (int i = 0; i < kCounts; ++i) {
      if (first + i < n) counts[first + i] = position;
      position += values[i];
    }
    carry = total;
  }
}

/// Moves the keys of a tile to their places, equal digits in their old order.
__global__ void __launch_bounds__(kWarp)
    scatter_kernel(const int32_t* keys, const int32_t* order, int64_t tokens, int shift, const int32_t* places,
                   int32_t* new_keys, int32_t* new_order) {
  __shared__ int32_t next[kDigits];
  for (int d = static_cast<int>(threadIdx.x); d < kDigits; d += kWarp)
    next[d] = places[int64_t{d} * gridDim.x + blockIdx.x];
  const int64_t begin = int64_t{blockIdx.x} * kTile;
  int32_t key[kEach], token[kEach];
  load_tile(keys, begin, tokens, key);
  load_tile(order, begin, tokens, token);
  __syncwarp();
  const unsigned below = (1u << threadIdx.x) - 1;
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const bool live = begin + j * kWarp + threadIdx.x < tokens;
    const int digit = live ? (key[j] >> shift) & (kDigits - 1) : kDigits;
    const unsigned same = __match_any_sync(kFullWarp, digit);
    int32_t place = 0;
    if (live) place = next[digit] + __popc(same & below);
    __syncwarp();
    if (live && (same & below) == 0) next[digit] += __popc(same);
    __syncwarp();
    if (live) {
      new_keys[place] = key[j];
      new_order[place] = token[j];
    }
  }
}

// ---- sums over the sorted list

template <typename T>
struct Sums {
  using A = Accumulator<T>;
  const T* dy;
  const int32_t *keys, *order;
  A *partial, *dweight;  ///< partial [pieces, 2, n]: of the run that an earlier piece began, of that begun here
  int64_t tokens, rows, n;
};

template <int N, typename A>
__device__ __forceinline__ void add_values(A* target, const A (&values)[N]) {
  A old[N];
  load_values<N>(target, old);
#pragma unroll
  for (int i = 0; i < N; ++i) old[i] += values[i];
  store_values<N>(target, old);
}

/// Block (piece, slice of columns).
template <int N, typename T>
__global__ void __launch_bounds__(kSumThreads) sum_kernel(const Sums<T> s) {
  using A = Accumulator<T>;
  constexpr int kAtOnce = 8;
  __shared__ int32_t keys[kPiece + 2], order[kPiece];  // keys: with both neighbours
  const int64_t begin = int64_t{blockIdx.x} * kPiece;
  for (int i = static_cast<int>(threadIdx.x); i < kPiece + 2; i += kSumThreads) {
    const int64_t at = begin + i - 1;
    keys[i] = at >= 0 && at < s.tokens ? s.keys[at] : -1;
    if (i < kPiece && begin + i < s.tokens) order[i] = s.order[begin + i];
  }
  __syncthreads();
  const int64_t column = (int64_t{blockIdx.y} * kSumThreads + threadIdx.x) * N;
  if (column >= s.n) return;
  const auto end = [&](int i) { return i >= kPiece || keys[i + 1] < 0 || keys[i + 1] >= s.rows; };
  A sum[N] = {};
  bool begun_here = keys[0] != keys[1];
  for (int base = 0; base < kPiece && !end(base); base += kAtOnce) {
    Pack<T, N> packs[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      if (!end(base + j)) packs[j] = load_pack<T, N>(s.dy + order[base + j] * s.n + column);
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int i = base + j;
      if (end(i)) break;
#pragma unroll
      for (int k = 0; k < N; ++k) sum[k] += to_accumulator<A>(packs[j].v[k]);
      const bool goes_on = keys[i + 2] == keys[i + 1];
      if (goes_on && i + 1 < kPiece) continue;
      if (begun_here && !goes_on) {
        add_values<N>(s.dweight + keys[i + 1] * s.n + column, sum);
      } else {
        store_values<N>(s.partial + (int64_t{blockIdx.x} * 2 + (begun_here ? 1 : 0)) * s.n + column, sum);
      }
      begun_here = true;
#pragma unroll
      for (int k = 0; k < N; ++k) sum[k] = A(0);
    }
  }
}

/// Block (piece, slice of columns): the run that begins in the piece and goes on beyond it.
template <int N, typename T>
__global__ void __launch_bounds__(kSumThreads) join_kernel(const Sums<T> s) {
  using A = Accumulator<T>;
  const int64_t piece = blockIdx.x, begin = piece * kPiece, last = begin + kPiece - 1;
  if (last + 1 >= s.tokens) return;
  const int32_t key = s.keys[last];
  if (key >= s.rows || s.keys[last + 1] != key) return;
  if (begin > 0 && s.keys[begin - 1] == key) return;  // begun earlier
  const int64_t column = (int64_t{blockIdx.y} * kSumThreads + threadIdx.x) * N;
  if (column >= s.n) return;
  int64_t low = last + 1, high = s.tokens;  // the last token of the run is in [low, high)
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    if (s.keys[middle] == key) {
      low = middle;
    } else {
      high = middle;
    }
  }
  A sum[N];
  load_values<N>(s.partial + (piece * 2 + 1) * s.n + column, sum);
  const int64_t last_piece = low / kPiece;
#pragma unroll 4
  for (int64_t p = piece + 1; p <= last_piece; ++p) {
    A more[N];
    load_values<N>(s.partial + p * 2 * s.n + column, more);
#pragma unroll
    for (int k = 0; k < N; ++k) sum[k] += more[k];
  }
  add_values<N>(s.dweight + key * s.n + column, sum);
}

template <int N, typename T>
void launch_sums(const Sums<T>& s, cudaStream_t stream) {
  const dim3 grid(grid_size(s.tokens, kPiece), grid_size(s.n, int64_t{kSumThreads} * N));
  sum_kernel<N><<<grid, kSumThreads, 0, stream>>>(s);
  join_kernel<N><<<grid, kSumThreads, 0, stream>>>(s);
}

/// Sorts the tokens by row; returns which of the two copies of keys and order holds the result.
int sort_tokens(const EmbeddingBackwardArgs& args, const Layout& layout, char* workspace, cudaStream_t stream) {
  const int64_t tokens = args.ids.numel(), rows = args.dweight.shape[0];
  int32_t *keys[2], *order[2];
  for (int i = 0; i < 2; ++i) {
    keys[i] = reinterpret_cast<int32_t*>(workspace + layout.keys[i]);
    order[i] = reinterpret_cast<int32_t*>(workspace + layout.order[i]);
  }
  int32_t* counts = reinterpret_cast<int32_t*>(workspace + layout.counts);
  keys_kernel<<<grid_size(tokens, kThreads), kThreads, 0, stream>>>(data_of<int32_t>(args.ids), tokens, args.first_row,
                                                                    rows, keys[0], order[0]);
  const unsigned tiles = grid_size(tokens, kTile);
  int from = 0;
  for (int shift = 0; shift < 31 && (rows >> shift) > 0; shift += kDigitBits, from = 1 - from) {
    count_kernel<<<tiles, kWarp, 0, stream>>>(keys[from], tokens, shift, counts);
    scan_kernel<<<1, kScanThreads, 0, stream>>>(counts, int64_t{tiles} * kDigits);
    scatter_kernel<<<tiles, kWarp, 0, stream>>>(keys[from], order[from], tokens, shift, counts, keys[1 - from],
                                                order[1 - from]);
  }
  check_launch("embedding_backward: sort");
  return from;
}

}  // namespace

void embedding_cuda(const EmbeddingArgs& args, void* stream) {
  if (args.y.numel() == 0) return;
  const int64_t n = args.weight.shape[1];
  dispatch_cuda("embedding", args.weight.dtype, [&](auto in_tag) {
    dispatch_cuda("embedding", args.y.dtype, [&](auto out_tag) {
      using T = typename decltype(in_tag)::type;
      using O = typename decltype(out_tag)::type;
      const auto launch = [&](auto pack) {
        constexpr int N = decltype(pack)::value;
        const int64_t total = args.y.numel() / N;
        lookup_kernel<N><<<grid_size(total, kThreads), kThreads, 0, stream_of(stream)>>>(
            data_of<T>(args.weight), data_of<int32_t>(args.ids), data_of<O>(args.y), total, n / N, args.weight.shape[0],
            args.first_row);
      };
      constexpr int N = kPerVector < T >> kPerVector<O> ? kPerVector<T> : kPerVector<O>;
      if (allows_packs(args.weight, N) && allows_packs(args.y, N)) {
        launch(std::integral_constant<int, N>{});
      } else {
        launch(std::integral_constant<int, 1>{});
      }
    });
  });
  check_launch("embedding");
}

void embedding_backward_cuda(const EmbeddingBackwardArgs& args, void* workspace, void* stream) {
  if (args.dweight.numel() == 0) return;
  if (!args.add) {
    check_cuda(cudaMemsetAsync(args.dweight.data, 0, static_cast<size_t>(args.dweight.bytes()), stream_of(stream)),
               "embedding_backward");
  }
  const int64_t tokens = args.ids.numel(), n = args.dweight.shape[1];
  if (tokens == 0) return;
  MEGATRON_CHECK(tokens < (int64_t{1} << 31) && args.dweight.shape[0] < (int64_t{1} << 31) - 1,
                 "embedding_backward: more than 2^31 tokens or table rows");
  char* memory = static_cast<char*>(workspace);
  const Layout layout = make_layout(tokens, n, size_of(args.dweight.dtype));
  const int sorted = sort_tokens(args, layout, memory, stream_of(stream));
  dispatch_cuda("embedding_backward", args.dy.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Accumulator<T>;
    Sums<T> s{};
    s.dy = data_of<T>(args.dy), s.dweight = data_of<A>(args.dweight);
    s.keys = reinterpret_cast<const int32_t*>(memory + layout.keys[sorted]);
    s.order = reinterpret_cast<const int32_t*>(memory + layout.order[sorted]);
    s.partial = reinterpret_cast<A*>(memory + layout.partial);
    s.tokens = tokens, s.rows = args.dweight.shape[0], s.n = n;
    constexpr int N = kPerVector<T>;
    if (allows_packs(args.dy, N) && allows_packs(args.dweight, N)) {
      launch_sums<N>(s, stream_of(stream));
    } else {
      launch_sums<1>(s, stream_of(stream));
    }
  });
  check_launch("embedding_backward: sums");
}

}  // namespace megatron
