// Backward of both norms in two launches. The first reads x, dy and dsum once and writes dx: a fixed number of blocks
// walks over the rows, and every thread adds up the parameters' gradients of its columns in registers. The second adds
// what the threads of different rows have left. So no sum depends on timing.
#include "kernels/rmsnorm/norm_row_cuda.cuh"

namespace megatron {

using namespace norm;  // NOLINT: helpers of this folder

namespace {

template <typename TX, typename TY>
struct Backward {
  using A = Accumulator<TX>;
  const TY* dy;
  const TX* x;
  const TY* gamma;
  const A *rstd, *mean;
  const TX* dsum;
  TX* dx;
  A* partial;  ///< [parameters, groups of the grid, n]
  RowOffsets dy_rows, x_rows, dsum_rows, dx_rows;
  int64_t rows;
  int n, threads;
  bool add;
  A offset;
};

/// What a thread reads of one row.
template <bool kMean, bool kAligned, int kPacks, typename TX, typename TY>
struct RowInput {
  using A = Accumulator<TX>;
  static constexpr int N = kPackOf<TX, TY>;
  using PartX = Held<TX, N>;
  using PartY = Held<TY, N>;
  PartX x[kPacks], dsum[kPacks];
  PartY dy[kPacks];
  A rstd, mean;

  /// Beyond the last row: zeros, which change no sum.
  __device__ __forceinline__ void load(const Backward<TX, TY>& b, int64_t row, const Place& at) {
    const bool live = row < b.rows;
    const int n = live ? b.n : 0;
    const int64_t safe = live ? row : 0;
    const TX *x_row = b.x + b.x_rows(safe), *dsum_row = b.dsum ? b.dsum + b.dsum_rows(safe) : nullptr;
    const TY* dy_row = b.dy + b.dy_rows(safe);
#pragma unroll kUnrolled < kPacks>
    for (int k = 0; k < kPacks; ++k) {
      const int column = at.column<N>(k);
      x[k] = PartX::template load<kAligned>(x_row, column, n);
      dy[k] = PartY::template load<kAligned>(dy_row, column, n);
      dsum[k] = PartX::template load<kAligned>(dsum_row, column, dsum_row ? n : 0);
    }
    rstd = live ? b.rstd[row] : A(0);
    mean = kMean && live ? b.mean[row] : A(0);
  }
  __device__ __forceinline__ A xhat(int k, int i) const {
    return (x[k].get(i) - mean) * rstd;
  }
};

/// dx of one row, from mean_gx = mean(g xhat) and mean_g = mean(g).
template <bool kMean, bool kAligned, int kPacks, typename TX, typename TY, int N, typename A>
__device__ __forceinline__ void write_dx(const Backward<TX, TY>& b, int64_t row, const Place& at,
                                         const RowInput<kMean, kAligned, kPacks, TX, TY>& input,
                                         const Held<TY, N> (&gamma)[kPacks], A mean_gx, A mean_g) {
  TX* dx = b.dx + b.dx_rows(row);
#pragma unroll kUnrolled < kPacks>
  for (int k = 0; k < kPacks; ++k) {
    const int column = at.column<N>(k);
    Held<TX, N> out{};
    if (b.add) out = Held<TX, N>::template load<kAligned>(dx, column, b.n);
    A values[N];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const A g = input.dy[k].get(i) * (gamma[k].get(i) + b.offset);
      values[i] = input.rstd * (g - mean_g - input.xhat(k, i) * mean_gx) + input.dsum[k].get(i) + out.get(i);
    }
    out.set(values);
    out.template store<kAligned>(dx, column, b.n);
  }
}

/// kAhead: the next row is on its way while one is worked on, where registers allow it: with two parameters' gradients
/// of two packs they spill.
template <bool kMean, bool kAligned, int kPacks, bool kAhead, typename TX, typename TY>
__global__ void __launch_bounds__(kBlockLimit<kPacks>) backward_kernel(const Backward<TX, TY> b) {
  using A = Accumulator<TX>;
  constexpr int N = kPackOf<TX, TY>, kSums = kMean ? 2 : 1;
  const Place at(b.threads);
  const int64_t rows_at_once = static_cast<int>(blockDim.x) / b.threads, step = gridDim.x * rows_at_once;
  Held<TY, N> gamma[kPacks];
  Held<A, N> gradients[kSums][kPacks] = {};  // of gamma, of beta
#pragma unroll kUnrolled < kPacks>
  for (int k = 0; k < kPacks; ++k) gamma[k] = Held<TY, N>::template load<kAligned>(b.gamma, at.column<N>(k), b.n);
  RowInput<kMean, kAligned, kPacks, TX, TY> input, next;
  const int64_t begin = blockIdx.x * rows_at_once;
  if constexpr (kAhead) next.load(b, begin + at.group, at);
  int turn = 0;
  // The condition is one for the whole block: its first row.
  for (int64_t first = begin; first < b.rows; first += step, turn ^= 1) {
    const int64_t row = first + at.group;
    if constexpr (kAhead) {
      input = next;
      next.load(b, row + step, at);
    } else {
      input.load(b, row, at);
    }
    A sums[kSums] = {};
#pragma unroll kUnrolled < kPacks>
    for (int k = 0; k < kPacks; ++k) {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const A dy = input.dy[k].get(i), xhat = input.xhat(k, i);
        const A g = dy * (gamma[k].get(i) + b.offset);
        gradients[0][k].words.v[i] += dy * xhat;
        sums[0] += g * xhat;
        if constexpr (kMean) {
          gradients[1][k].words.v[i] += dy;
          sums[1] += g;
        }
      }
    }
    if (!b.dx) continue;
    row_sums(sums, at, turn);
    const A scale = A(1) / static_cast<A>(b.n);
    if (row < b.rows) write_dx(b, row, at, input, gamma, sums[0] * scale, kMean ? sums[kSums - 1] * scale : A(0));
  }
  if (!b.partial) return;
  const int64_t groups = step, group = begin + at.group;
#pragma unroll
  for (int p = 0; p < kSums; ++p) {
#pragma unroll kUnrolled < kPacks>
    for (int k = 0; k < kPacks; ++k)
      gradients[p][k].template store<kAligned>(b.partial + (p * groups + group) * b.n, at.column<N>(k), b.n);
  }
}

/// Parameter gradients.
template <typename A>
struct Combined {
  const A* partial;  ///< [parameters, groups, n]
  A *dgamma, *dbeta;
  int64_t groups, n;
  bool add_dgamma, add_dbeta;
};

constexpr int kCombineLanes = 32;

/// Block (32 columns, parameter): lane l sums the groups l, l + 32, ..., then the lanes are summed in order.
template <typename A>
__global__ void __launch_bounds__(kWarp* kCombineLanes) combine_kernel(const Combined<A> c) {
  __shared__ A sums[kCombineLanes][kWarp];
  A* target = blockIdx.y == 0 ? c.dgamma : c.dbeta;
  const bool add = blockIdx.y == 0 ? c.add_dgamma : c.add_dbeta;
  if (!target) return;
  const int64_t column = int64_t{blockIdx.x} * kWarp + threadIdx.x;
  A sum = A(0);
  if (column < c.n) {
    const A* partial = c.partial + blockIdx.y * c.groups * c.n + column;
#pragma unroll 8
    for (int64_t group = threadIdx.y; group < c.groups; group += kCombineLanes) sum += partial[group * c.n];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || column >= c.n) return;
  for (int i = 1; i < kCombineLanes; ++i) sum += sums[i][threadIdx.x];
  target[column] = add ? target[column] + sum : sum;
}

template <bool kMean, typename TX, typename TY>
void launch_rows(const Backward<TX, TY>& b, const RowCut& cut, unsigned grid, bool aligned, cudaStream_t stream) {
  const unsigned block = static_cast<unsigned>(cut.threads * cut.rows);
  if constexpr (sizeof(TX) < sizeof(double)) {
    if (aligned && cut.packs == 1) return backward_kernel<kMean, true, 1, true><<<grid, block, 0, stream>>>(b);
    if (aligned && cut.packs == kBackwardPacks)
      return backward_kernel<kMean, true, kBackwardPacks, !kMean><<<grid, block, 0, stream>>>(b);
    if (aligned && cut.packs == kWidePacks)
      return backward_kernel<kMean, true, kWidePacks, false><<<grid, block, 0, stream>>>(b);
  }
  backward_kernel<kMean, false, kLongPacks, false><<<grid, block, 0, stream>>>(b);
}

template <bool kMean, typename TX, typename TY>
void launch_backward(Backward<TX, TY> b, const NormBackwardCudaArgs& args, bool aligned, cudaStream_t stream) {
  using A = cuda::Accumulator<TX>;
  const RowCut cut = backward_cut(div_ceil(int64_t{b.n}, int64_t{kPackOf<TX, TY>}));
  MEGATRON_CHECK(cut.threads <= kMaxLongThreads, "norm: rows are too long for the CUDA version");
  b.threads = cut.threads;
  const int64_t blocks = backward_blocks(b.rows, cut);
  if (blocks > 0 && (b.dx || b.partial)) launch_rows<kMean>(b, cut, static_cast<unsigned>(blocks), aligned, stream);
  if (!args.dgamma && !args.dbeta) return;
  const Combined<A> c{b.partial, data_of<A>(args.dgamma), data_of<A>(args.dbeta), blocks * cut.rows,
                      b.n,       args.add_dgamma,         args.add_dbeta};
  combine_kernel<<<dim3(grid_size(b.n, kWarp), kMean ? 2 : 1), dim3(kWarp, kCombineLanes), 0, stream>>>(c);
}

}  // namespace

void norm_backward_cuda(NormKind kind, const NormBackwardCudaArgs& args, const NormOptions& options, void* workspace,
                        void* stream) {
  const char* what = "norm_backward";
  dispatch_norm(what, kind, args.x.dtype, args.gamma.dtype, [&](auto x_tag, auto y_tag, auto mean) {
    using TX = typename decltype(x_tag)::type;
    using TY = typename decltype(y_tag)::type;
    using A = cuda::Accumulator<TX>;
    Backward<TX, TY> b{};
    b.dy = data_of<TY>(args.dy), b.x = data_of<TX>(args.x), b.gamma = data_of<TY>(args.gamma);
    b.rstd = data_of<A>(args.rstd), b.mean = data_of<A>(args.mean);
    b.dsum = data_of<TX>(args.dsum), b.dx = data_of<TX>(args.dx);
    b.partial = args.dgamma || args.dbeta ? static_cast<A*>(workspace) : nullptr;
    b.dy_rows = row_offsets(args.dy), b.x_rows = row_offsets(args.x);
    b.dsum_rows = row_offsets(args.dsum), b.dx_rows = row_offsets(args.dx);
    b.rows = count_rows(args.x), b.n = narrow<int>(args.x.shape.back());
    if (b.n == 0) return;
    b.add = args.add_dx;
    b.offset = options.zero_centered ? A(1) : A(0);
    bool aligned = true;
    for (const Tensor* t : {&args.dy, &args.x, &args.gamma, &args.dsum, &args.dx})
      aligned = aligned && allows_packs(*t, kPackOf<TX, TY>);
    launch_backward<decltype(mean)::value>(b, args, aligned, stream_of(stream));
  });
  check_launch(("norm_backward of " + to_string(args.x.shape)).c_str());
}

}  // namespace megatron
