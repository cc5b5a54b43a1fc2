// CUDA kernels of both norms; kMean tells LayerNorm from RMSNorm. A row is held in the registers of 8 to 512 threads;
// longer rows are read again from memory. Which thread takes which elements does not depend on alignment, so neither
// does the order of a sum.
#pragma once

#include "kernels/cuda/cuda_types.cuh"
#include "kernels/rmsnorm/norm_plan_cuda.h"

namespace megatron::norm_cuda {

using namespace cuda;  // NOLINT: device helpers

template <typename TX, typename TY>
constexpr int kPackOf = static_cast<int>(pack_elements(sizeof(TX), sizeof(TY)));

/// Sums of K numbers over the kThreads threads that share a row, given to all of them. Every thread of the block calls.
template <int kThreads, int K, typename A>
__device__ __forceinline__ void row_sums(A (&v)[K]) {
  constexpr int kWidth = kThreads < kWarp ? kThreads : kWarp;
#pragma unroll
  for (int k = 0; k < K; ++k) {
#pragma unroll
    for (int step = kWidth / 2; step > 0; step /= 2) v[k] += __shfl_xor_sync(kFullWarp, v[k], step);
  }
  if constexpr (kThreads > kWarp) {
    constexpr int kWarps = kThreads / kWarp;
    __shared__ A partial[K][kWarps];
    __syncthreads();
    if (threadIdx.x % kWarp == 0) {
#pragma unroll
      for (int k = 0; k < K; ++k) partial[k][threadIdx.x / kWarp] = v[k];
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < K; ++k) {
      v[k] = partial[k][threadIdx.x % kWarps];
#pragma unroll
      for (int step = kWarps / 2; step > 0; step /= 2) v[k] += __shfl_xor_sync(kFullWarp, v[k], step);
    }
  }
}

/// The packs of one row that thread `lane` of the row holds; zeros beyond its end.
template <typename T, int N, int kThreads, int kPacks>
struct RowPart {
  Pack<T, N> packs[kPacks];

  __device__ __forceinline__ static int column(int lane, int k) { return (k * kThreads + lane) * N; }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
#pragma unroll
      for (int i = 0; i < N; ++i) packs[k].v[i] = from_accumulator<T>(0.0f);
    }
  }
  __device__ __forceinline__ void load(const T* row, int lane, int n, bool aligned) {
    clear();
    if (aligned) {
#pragma unroll
      for (int k = 0; k < kPacks; ++k) {
        if (column(lane, k) < n) packs[k] = load_pack<T, N>(row + column(lane, k));
      }
    } else {
#pragma unroll
      for (int k = 0; k < kPacks; ++k) {
#pragma unroll
        for (int i = 0; i < N; ++i) {
          if (column(lane, k) + i < n) packs[k].v[i] = row[column(lane, k) + i];
        }
      }
    }
  }
  /// The pack at column `begin` alone.
  __device__ __forceinline__ static Pack<T, N> load_one(const T* row, int begin, int n, bool aligned) {
    Pack<T, N> pack;
#pragma unroll
    for (int i = 0; i < N; ++i) pack.v[i] = from_accumulator<T>(0.0f);
    if (aligned) {
      if (begin < n) pack = load_pack<T, N>(row + begin);
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        if (begin + i < n) pack.v[i] = row[begin + i];
      }
    }
    return pack;
  }
  __device__ __forceinline__ static void store(const Pack<T, N>& pack, T* row, int begin, int n, bool aligned) {
    if (aligned) {
      if (begin < n) store_pack<T, N>(row + begin, pack);
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        if (begin + i < n) row[begin + i] = pack.v[i];
      }
    }
  }
};

// ---- forward

template <typename TX, typename TY>
struct Forward {
  using A = Accumulator<TX>;
  const TX *x, *residual;
  const TY *gamma, *beta;
  TY* y;
  TX* sum;
  A *rstd, *mean;
  RowOffsets x_rows, residual_rows, y_rows, sum_rows;
  int64_t rows, n;
  bool aligned;
  A offset, epsilon;
};

template <bool kMean, typename TX, typename TY, int kThreads, int kPacks>
__global__ void __launch_bounds__(kThreads < kBlockThreads ? kBlockThreads : kThreads)
    forward_kernel(const Forward<TX, TY> f) {
  using A = Accumulator<TX>;
  constexpr int N = kPackOf<TX, TY>, kRows = kThreads < kBlockThreads ? kBlockThreads / kThreads : 1;
  using PartX = RowPart<TX, N, kThreads, kPacks>;
  const int lane = static_cast<int>(threadIdx.x) % kThreads, n = static_cast<int>(f.n);
  const int64_t row = int64_t{blockIdx.x} * kRows + threadIdx.x / kThreads;
  const bool live = row < f.rows;
  PartX x;
  if (live) {
    x.load(f.x + f.x_rows(row), lane, n, f.aligned);
    if (f.residual) {
      PartX r;
      r.load(f.residual + f.residual_rows(row), lane, n, f.aligned);
#pragma unroll
      for (int k = 0; k < kPacks; ++k) {
#pragma unroll
        for (int i = 0; i < N; ++i) {
          x.packs[k].v[i] =
              from_accumulator<TX>(to_accumulator<A>(x.packs[k].v[i]) + to_accumulator<A>(r.packs[k].v[i]));
        }
      }
    }
    if (f.sum) {
      TX* sum = f.sum + f.sum_rows(row);
#pragma unroll
      for (int k = 0; k < kPacks; ++k) PartX::store(x.packs[k], sum, PartX::column(lane, k), n, f.aligned);
    }
  } else {
    x.clear();
  }
  A mean = A(0);
  if constexpr (kMean) {
    A total[1] = {};
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
#pragma unroll
      for (int i = 0; i < N; ++i) total[0] += to_accumulator<A>(x.packs[k].v[i]);
    }
    row_sums<kThreads>(total);
    mean = total[0] / static_cast<A>(n);
  }
  A square[1] = {};
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const A v = to_accumulator<A>(x.packs[k].v[i]) - mean;
      if (!kMean || PartX::column(lane, k) + i < n) square[0] += v * v;
    }
  }
  row_sums<kThreads>(square);
  const A rstd = A(1) / sqrt(square[0] / static_cast<A>(n) + f.epsilon);
  if (!live) return;
  if (lane == 0) {
    if (f.rstd) f.rstd[row] = rstd;
    if (kMean && f.mean) f.mean[row] = mean;
  }
  if (!f.y) return;
  using PartY = RowPart<TY, N, kThreads, kPacks>;
  TY* y = f.y + f.y_rows(row);
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    const int begin = PartY::column(lane, k);
    const Pack<TY, N> gamma = PartY::load_one(f.gamma, begin, n, f.aligned);
    Pack<TY, N> beta, out;
    if constexpr (kMean) beta = PartY::load_one(f.beta, begin, n, f.aligned);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      A v = (to_accumulator<A>(x.packs[k].v[i]) - mean) * rstd * (to_accumulator<A>(gamma.v[i]) + f.offset);
      if constexpr (kMean) v += to_accumulator<A>(beta.v[i]);
      out.v[i] = from_accumulator<TY>(v);
    }
    PartY::store(out, y, begin, n, f.aligned);
  }
}

constexpr int kLongThreads = 512;

/// One block per row of any length; the row is read three times, from cache after the first.
template <bool kMean, typename TX, typename TY>
__global__ void __launch_bounds__(kLongThreads) forward_long_kernel(const Forward<TX, TY> f) {
  using A = Accumulator<TX>;
  const int64_t row = blockIdx.x, n = f.n;
  const TX *x = f.x + f.x_rows(row), *residual = f.residual ? f.residual + f.residual_rows(row) : nullptr;
  TX* sum = f.sum ? f.sum + f.sum_rows(row) : nullptr;
  const auto value = [&](int64_t i) {
    const A v = to_accumulator<A>(x[i]);
    return residual ? to_accumulator<A>(from_accumulator<TX>(v + to_accumulator<A>(residual[i]))) : v;
  };
  A mean = A(0);
  if constexpr (kMean) {
    A total[1] = {};
    for (int64_t i = threadIdx.x; i < n; i += kLongThreads) total[0] += value(i);
    row_sums<kLongThreads>(total);
    mean = total[0] / static_cast<A>(n);
  }
  A square[1] = {};
  for (int64_t i = threadIdx.x; i < n; i += kLongThreads) {
    const A v = value(i);
    if (sum) sum[i] = from_accumulator<TX>(v);
    square[0] += (v - mean) * (v - mean);
  }
  row_sums<kLongThreads>(square);
  const A rstd = A(1) / sqrt(square[0] / static_cast<A>(n) + f.epsilon);
  if (threadIdx.x == 0) {
    if (f.rstd) f.rstd[row] = rstd;
    if (kMean && f.mean) f.mean[row] = mean;
  }
  if (!f.y) return;
  TY* y = f.y + f.y_rows(row);
  for (int64_t i = threadIdx.x; i < n; i += kLongThreads) {
    A v = (value(i) - mean) * rstd * (to_accumulator<A>(f.gamma[i]) + f.offset);
    if constexpr (kMean) v += to_accumulator<A>(f.beta[i]);
    y[i] = from_accumulator<TY>(v);
  }
}

// ---- backward

template <typename TX, typename TY>
struct Backward {
  using A = Accumulator<TX>;
  const TY* dy;
  const TX* x;
  const TY* gamma;
  const A *rstd, *mean;
  const TX* dsum;
  TX* dx;
  A* partial;  ///< [blocks, 1 or 2 parameters, n]
  RowOffsets dy_rows, x_rows, dsum_rows, dx_rows;
  int64_t rows, n;
  bool aligned, add;
  A offset;
};

/// Large blocks have few registers per thread: they load gamma and dsum when they need them.
template <bool kMean, int kThreads, int kPacks>
constexpr bool kLean = kThreads >= 512 && (kMean || kPacks > 2);
/// Most load the next row while they work on one.
template <int kThreads, int kPacks>
constexpr bool kAhead = kThreads* kPacks <= 1024;

/// What a thread loads of one row.
template <bool kMean, typename TX, typename TY, int N, int kThreads, int kPacks>
struct RowInput {
  using A = Accumulator<TX>;
  RowPart<TX, N, kThreads, kPacks> x;
  RowPart<TX, N, kThreads, kLean<kMean, kThreads, kPacks> ? 1 : kPacks> dsum;  // unused when lean
  RowPart<TY, N, kThreads, kPacks> dy;
  A rstd, mean;

  __device__ __forceinline__ void load(const Backward<TX, TY>& b, int64_t row, int lane) {
    const int n = static_cast<int>(b.n);
    if (row >= b.rows) {
      x.clear(), dy.clear();
      rstd = mean = A(0);
      return;
    }
    x.load(b.x + b.x_rows(row), lane, n, b.aligned);
    dy.load(b.dy + b.dy_rows(row), lane, n, b.aligned);
    if constexpr (!kLean<kMean, kThreads, kPacks>) {
      if (b.dx && b.dsum) dsum.load(b.dsum + b.dsum_rows(row), lane, n, b.aligned);
    }
    rstd = b.rstd[row];
    mean = kMean ? b.mean[row] : A(0);
  }
};

/// Writes the block's sum of `values` over its rows.
template <typename A, int N, int kThreads, int kPacks>
__device__ __forceinline__ void write_partial(const A (&values)[kPacks][N], A* target, int n) {
  const int lane = static_cast<int>(threadIdx.x) % kThreads;
  if constexpr (kThreads >= kBlockThreads) {
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      const int begin = (k * kThreads + lane) * N;
#pragma unroll
      for (int i = 0; i < N; ++i) {
        if (begin + i < n) target[begin + i] = values[k][i];
      }
    }
  } else {
    constexpr int kRows = kBlockThreads / kThreads, kColumns = kThreads * kPacks * N;
    __shared__ A sums[kRows][kColumns];
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
#pragma unroll
      for (int i = 0; i < N; ++i) sums[threadIdx.x / kThreads][(k * kThreads + lane) * N + i] = values[k][i];
    }
    __syncthreads();
    for (int j = static_cast<int>(threadIdx.x); j < n; j += kBlockThreads) {
      A sum = sums[0][j];
      for (int r = 1; r < kRows; ++r) sum += sums[r][j];
      target[j] = sum;
    }
  }
}

template <bool kMean, typename TX, typename TY, int kThreads, int kPacks>
__global__ void __launch_bounds__(kThreads < kBlockThreads ? kBlockThreads : kThreads)
    backward_kernel(const Backward<TX, TY> b) {
  using A = Accumulator<TX>;
  constexpr int N = kPackOf<TX, TY>, kRows = kThreads < kBlockThreads ? kBlockThreads / kThreads : 1;
  using PartX = RowPart<TX, N, kThreads, kPacks>;
  const int lane = static_cast<int>(threadIdx.x) % kThreads, n = static_cast<int>(b.n);
  const int64_t step = int64_t{gridDim.x} * kRows;
  using PartY = RowPart<TY, N, kThreads, kPacks>;
  constexpr bool kHold = !kLean<kMean, kThreads, kPacks>;
  RowPart<TY, N, kThreads, kHold ? kPacks : 1> held;
  if constexpr (kHold) held.load(b.gamma, lane, n, b.aligned);
  const auto gamma_pack = [&](int k) {
    if constexpr (kHold) {
      return held.packs[k];
    } else {
      return PartY::load_one(b.gamma, PartY::column(lane, k), n, b.aligned);
    }
  };
  A dgamma[kPacks][N] = {}, dbeta[kPacks][N] = {};
  RowInput<kMean, TX, TY, N, kThreads, kPacks> input;
  int64_t row = int64_t{blockIdx.x} * kRows + threadIdx.x / kThreads;
  input.load(b, row, lane);
  // The condition is one for the whole block: its first row.
  for (int64_t first = int64_t{blockIdx.x} * kRows; first < b.rows; first += step, row += step) {
    const auto current = input;
    if constexpr (kAhead<kThreads, kPacks>) input.load(b, row + step, lane);
    A sums[kMean ? 2 : 1] = {};
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      const Pack<TY, N> gamma = gamma_pack(k);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const A dy = to_accumulator<A>(current.dy.packs[k].v[i]);
        const A xhat = (to_accumulator<A>(current.x.packs[k].v[i]) - current.mean) * current.rstd;
        const A g = dy * (to_accumulator<A>(gamma.v[i]) + b.offset);
        dgamma[k][i] += dy * xhat;
        sums[0] += g * xhat;
        if constexpr (kMean) {
          dbeta[k][i] += dy;
          sums[1] += g;
        }
      }
    }
    if (b.dx) row_sums<kThreads>(sums);
    if constexpr (!kAhead<kThreads, kPacks>) input.load(b, row + step, lane);
    if (!b.dx || row >= b.rows) continue;
    const A mean_gx = sums[0] / static_cast<A>(n);
    A mean_g = A(0);
    if constexpr (kMean) mean_g = sums[1] / static_cast<A>(n);
    TX* dx = b.dx + b.dx_rows(row);
    const TX* dsum_row = b.dsum ? b.dsum + b.dsum_rows(row) : nullptr;
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      const int begin = PartX::column(lane, k);
      const Pack<TY, N> gamma = gamma_pack(k);
      Pack<TX, N> old, dsum, out;
      if (b.add) old = PartX::load_one(dx, begin, n, b.aligned);
      if constexpr (kHold) {
        dsum = current.dsum.packs[k];
      } else if (dsum_row) {
        dsum = PartX::load_one(dsum_row, begin, n, b.aligned);
      }
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const A xhat = (to_accumulator<A>(current.x.packs[k].v[i]) - current.mean) * current.rstd;
        const A g = to_accumulator<A>(current.dy.packs[k].v[i]) * (to_accumulator<A>(gamma.v[i]) + b.offset);
        A v = current.rstd * (g - mean_g - xhat * mean_gx);
        if (dsum_row) v += to_accumulator<A>(dsum.v[i]);
        if (b.add) v += to_accumulator<A>(old.v[i]);
        out.v[i] = from_accumulator<TX>(v);
      }
      PartX::store(out, dx, begin, n, b.aligned);
    }
  }
  if (!b.partial) return;
  A* partial = b.partial + int64_t{blockIdx.x} * (kMean ? 2 : 1) * n;
  write_partial<A, N, kThreads, kPacks>(dgamma, partial, n);
  if constexpr (kMean) write_partial<A, N, kThreads, kPacks>(dbeta, partial + n, n);
}

/// dx of one row of any length per block.
template <bool kMean, typename TX, typename TY>
__global__ void __launch_bounds__(kLongThreads) backward_long_kernel(const Backward<TX, TY> b) {
  using A = Accumulator<TX>;
  const int64_t row = blockIdx.x, n = b.n;
  const TX *x = b.x + b.x_rows(row), *dsum = b.dsum ? b.dsum + b.dsum_rows(row) : nullptr;
  const TY* dy = b.dy + b.dy_rows(row);
  TX* dx = b.dx + b.dx_rows(row);
  const A rstd = b.rstd[row], mean = kMean ? b.mean[row] : A(0);
  const auto xhat = [&](int64_t i) { return (to_accumulator<A>(x[i]) - mean) * rstd; };
  const auto g = [&](int64_t i) { return to_accumulator<A>(dy[i]) * (to_accumulator<A>(b.gamma[i]) + b.offset); };
  A sums[2] = {};
  for (int64_t i = threadIdx.x; i < n; i += kLongThreads) {
    sums[0] += g(i) * xhat(i);
    sums[1] += g(i);
  }
  row_sums<kLongThreads>(sums);
  const A mean_gx = sums[0] / static_cast<A>(n), mean_g = kMean ? sums[1] / static_cast<A>(n) : A(0);
  for (int64_t i = threadIdx.x; i < n; i += kLongThreads) {
    A v = rstd * (g(i) - mean_g - xhat(i) * mean_gx);
    if (dsum) v += to_accumulator<A>(dsum[i]);
    if (b.add) v += to_accumulator<A>(dx[i]);
    dx[i] = from_accumulator<TX>(v);
  }
}

/// Parameter gradients of long rows: a block sums kBlockThreads columns over one cut of the rows.
template <bool kMean, typename TX, typename TY>
__global__ void __launch_bounds__(kBlockThreads) parameters_long_kernel(const Backward<TX, TY> b) {
  using A = Accumulator<TX>;
  const int64_t column = int64_t{blockIdx.x} * kBlockThreads + threadIdx.x;
  if (column >= b.n) return;
  A dgamma = A(0), dbeta = A(0);
#pragma unroll 4
  for (int64_t row = blockIdx.y; row < b.rows; row += gridDim.y) {
    const A dy = to_accumulator<A>(b.dy[b.dy_rows(row) + column]);
    const A mean = kMean ? b.mean[row] : A(0);
    dgamma += dy * ((to_accumulator<A>(b.x[b.x_rows(row) + column]) - mean) * b.rstd[row]);
    dbeta += dy;
  }
  A* partial = b.partial + int64_t{blockIdx.y} * (kMean ? 2 : 1) * b.n + column;
  partial[0] = dgamma;
  if constexpr (kMean) partial[b.n] = dbeta;
}

constexpr int kCombineLanes = 16;

/// target[j] (+)= sum over blocks of partial[block * stride + j].
template <typename A>
__global__ void __launch_bounds__(kWarp* kCombineLanes)
    combine_kernel(const A* partial, int64_t blocks, int64_t stride, int64_t n, A* target, bool add) {
  __shared__ A sums[kCombineLanes][kWarp];
  const int64_t column = int64_t{blockIdx.x} * kWarp + threadIdx.x;
  A sum = A(0);
  if (column < n) {
#pragma unroll 4
    for (int64_t block = threadIdx.y; block < blocks; block += kCombineLanes) sum += partial[block * stride + column];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || column >= n) return;
  for (int i = 1; i < kCombineLanes; ++i) sum += sums[i][threadIdx.x];
  target[column] = add ? target[column] + sum : sum;
}

// ---- launches

/// body(Tag<TX>, Tag<TY>) for the pairs that occur: one type, or a fp32 residual stream with 16-bit y.
template <typename Body>
void dispatch_pair(const char* what, DType x, DType y, Body&& body) {
  dispatch_cuda(what, y, [&](auto tag) {
    using TY = typename decltype(tag)::type;
    if (x == y) return body(tag, tag);
    if constexpr (sizeof(TY) == 2) {
      if (x == DType::kF32) return body(Tag<float>{}, tag);
    }
    fail_dtype(what, x);
  });
}

template <int kThreads, int kPacks>
struct Cut {
  static constexpr int threads = kThreads, packs = kPacks;
};

/// body(Cut) for one of the cuts of norm_plan_cuda.h.
template <typename Body>
void dispatch_cut(const RowCut& cut, Body&& body) {
  switch (cut.threads * 10 + cut.packs) {
    case 81:
      return body(Cut<8, 1>{});
    case 161:
      return body(Cut<16, 1>{});
    case 321:
      return body(Cut<32, 1>{});
    case 324:
      return body(Cut<32, 4>{});
    case 1281:
      return body(Cut<128, 1>{});
    case 1282:
      return body(Cut<128, 2>{});
    case 1284:
      return body(Cut<128, 4>{});
    case 2562:
      return body(Cut<256, 2>{});
    case 2564:
      return body(Cut<256, 4>{});
    case 5122:
      return body(Cut<512, 2>{});
    case 5124:
      return body(Cut<512, 4>{});
    case 5128:
      return body(Cut<512, 8>{});
    default:
      MEGATRON_CHECK(false, "no such cut");
  }
}
/// Only its own cuts are compiled for the forward and the backward.
constexpr bool is_forward_cut(int threads, int packs) {
  return threads <= 32 || packs >= 4;
}
constexpr bool is_backward_cut(int threads, int packs) {
  return packs <= 2 || (threads == 512 && packs == 4);
}

template <bool kMean, typename TX, typename TY>
void launch_forward(const Forward<TX, TY>& f, cudaStream_t stream) {
  if (f.rows == 0 || f.n == 0) return;
  const RowCut cut = forward_cut(div_ceil(f.n, kPackOf<TX, TY>));
  if (cut.threads == 0) {
    forward_long_kernel<kMean><<<grid_size(f.rows, 1), kLongThreads, 0, stream>>>(f);
  } else {
    dispatch_cut(cut, [&](auto c) {
      if constexpr (is_forward_cut(c.threads, c.packs)) {
        constexpr int kThreads = c.threads < kBlockThreads ? kBlockThreads : c.threads;
        forward_kernel<kMean, TX, TY, c.threads, c.packs>
            <<<grid_size(f.rows, kThreads / c.threads), kThreads, 0, stream>>>(f);
      } else {
        MEGATRON_CHECK(false, "a cut of the backward");
      }
    });
  }
  check_launch("norm");
}

template <bool kMean, typename TX, typename TY>
void launch_backward(const Backward<TX, TY>& b, cudaStream_t stream) {
  if (b.rows == 0 || b.n == 0 || (!b.dx && !b.partial)) return;
  const RowCut cut = backward_cut(div_ceil(b.n, kPackOf<TX, TY>));
  const int64_t blocks = backward_blocks(b.rows, cut);
  if (cut.threads == 0) {
    if (b.dx) backward_long_kernel<kMean><<<grid_size(b.rows, 1), kLongThreads, 0, stream>>>(b);
    if (b.partial) {
      const dim3 grid(grid_size(b.n, kBlockThreads), static_cast<unsigned>(blocks));
      parameters_long_kernel<kMean><<<grid, kBlockThreads, 0, stream>>>(b);
    }
  } else {
    dispatch_cut(cut, [&](auto c) {
      if constexpr (is_backward_cut(c.threads, c.packs)) {
        constexpr int kThreads = c.threads < kBlockThreads ? kBlockThreads : c.threads;
        backward_kernel<kMean, TX, TY, c.threads, c.packs><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(b);
      } else {
        MEGATRON_CHECK(false, "a cut of the forward");
      }
    });
  }
  check_launch("norm_backward");
}

template <typename A>
void combine(const A* partial, int64_t blocks, int64_t stride, const Tensor& target, bool add, cudaStream_t stream) {
  const int64_t n = target.numel();
  if (n == 0) return;
  combine_kernel<<<grid_size(n, kWarp), dim3(kWarp, kCombineLanes), 0, stream>>>(partial, blocks, stride, n,
                                                                                 data_of<A>(target), add);
  check_launch("norm_backward: parameter gradients");
}

}  // namespace megatron::norm_cuda
