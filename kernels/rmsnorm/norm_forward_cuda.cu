// Forward of both norms: a row is read once and held in registers.
#include "kernels/rmsnorm/norm_row_cuda.cuh"

namespace megatron {

using namespace norm;  // NOLINT: helpers of this folder

namespace {

template <typename TX, typename TY>
struct Forward {
  using A = Accumulator<TX>;
  const TX *x, *residual;
  const TY *gamma, *beta;
  TY* y;
  TX* sum;
  A *rstd, *mean;
  RowOffsets x_rows, residual_rows, y_rows, sum_rows;
  int64_t rows;
  int n, threads;
  A offset, epsilon;
};

/// x[k] = pack k of the row, with the residual added.
template <bool kAligned, int kPacks, typename TX, typename TY, int N>
__device__ __forceinline__ void load_row(const Forward<TX, TY>& f, int64_t row, const Place& at,
                                         Held<TX, N> (&x)[kPacks]) {
  using A = Accumulator<TX>;
  using Part = Held<TX, N>;
  const TX* from = f.x + f.x_rows(row);
#pragma unroll kUnrolled < kPacks>
  for (int k = 0; k < kPacks; ++k) x[k] = Part::template load<kAligned>(from, at.column<N>(k), f.n);
  if (f.residual) {
    const TX* residual = f.residual + f.residual_rows(row);
#pragma unroll kUnrolled < kPacks>
    for (int k = 0; k < kPacks; ++k) {
      const Part r = Part::template load<kAligned>(residual, at.column<N>(k), f.n);
      A values[N];
#pragma unroll
      for (int i = 0; i < N; ++i) values[i] = x[k].get(i) + r.get(i);
      x[k].set(values);
    }
  }
  if (f.sum) {
    TX* sum = f.sum + f.sum_rows(row);
#pragma unroll kUnrolled < kPacks>
    for (int k = 0; k < kPacks; ++k) x[k].template store<kAligned>(sum, at.column<N>(k), f.n);
  }
}

template <bool kMean, bool kAligned, int kPacks, typename TX, typename TY>
__global__ void __launch_bounds__(kBlockLimit<kPacks>) forward_kernel(const Forward<TX, TY> f) {
  using A = Accumulator<TX>;
  constexpr int N = kPackOf<TX, TY>;
  const Place at(f.threads);
  const int64_t row = int64_t{blockIdx.x} * (static_cast<int>(blockDim.x) / f.threads) + at.group;
  Held<TX, N> x[kPacks] = {};
  if (row < f.rows) load_row<kAligned, kPacks>(f, row, at, x);
  A mean = A(0);
  if constexpr (kMean) {
    A total[1] = {};
#pragma unroll kUnrolled < kPacks>
    for (int k = 0; k < kPacks; ++k) {
#pragma unroll
      for (int i = 0; i < N; ++i) total[0] += x[k].get(i);
    }
    row_sums(total, at, 0);
    mean = total[0] / static_cast<A>(f.n);
  }
  A square[1] = {};
#pragma unroll kUnrolled < kPacks>
  for (int k = 0; k < kPacks; ++k) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const A v = x[k].get(i) - mean;
      if (!kMean || at.column<N>(k) + (kAligned ? 0 : i) < f.n) square[0] += v * v;
    }
  }
  row_sums(square, at, 1);
  const A rstd = A(1) / sqrt(square[0] / static_cast<A>(f.n) + f.epsilon);
  if (row >= f.rows) return;
  if (at.lane == 0) {
    if (f.rstd) f.rstd[row] = rstd;
    if (kMean && f.mean) f.mean[row] = mean;
  }
  if (!f.y) return;
  using Part = Held<TY, N>;
  TY* y = f.y + f.y_rows(row);
#pragma unroll kUnrolled < kPacks>
  for (int k = 0; k < kPacks; ++k) {
    const int column = at.column<N>(k);
    const Part gamma = Part::template load<kAligned>(f.gamma, column, f.n);
    Part beta, out;
    if constexpr (kMean) beta = Part::template load<kAligned>(f.beta, column, f.n);
    A values[N];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      values[i] = (x[k].get(i) - mean) * rstd * (gamma.get(i) + f.offset);
      if constexpr (kMean) values[i] += beta.get(i);
    }
    out.set(values);
    out.template store<kAligned>(y, column, f.n);
  }
}

template <bool kMean, typename TX, typename TY>
void launch_forward(Forward<TX, TY> f, bool aligned, cudaStream_t stream) {
  const RowCut cut = forward_cut(div_ceil(int64_t{f.n}, int64_t{kPackOf<TX, TY>}));
  MEGATRON_CHECK(cut.threads <= kMaxLongThreads, "norm: rows are too long for the CUDA version");
  f.threads = cut.threads;
  const unsigned grid = grid_size(f.rows, cut.rows), block = static_cast<unsigned>(cut.threads * cut.rows);
  if constexpr (sizeof(TX) < sizeof(double)) {
    if (aligned && cut.packs == 1) return forward_kernel<kMean, true, 1><<<grid, block, 0, stream>>>(f);
    if (aligned && cut.packs == kForwardPacks)
      return forward_kernel<kMean, true, kForwardPacks><<<grid, block, 0, stream>>>(f);
  }
  forward_kernel<kMean, false, kLongPacks><<<grid, block, 0, stream>>>(f);
}

}  // namespace

void norm_cuda(NormKind kind, const NormCudaArgs& args, const NormOptions& options, void* stream) {
  if (args.x.numel() == 0) return;
  dispatch_norm("norm", kind, args.x.dtype, args.gamma.dtype, [&](auto x_tag, auto y_tag, auto mean) {
    using TX = typename decltype(x_tag)::type;
    using TY = typename decltype(y_tag)::type;
    using A = cuda::Accumulator<TX>;
    Forward<TX, TY> f{};
    f.x = data_of<TX>(args.x), f.residual = data_of<TX>(args.residual);
    f.gamma = data_of<TY>(args.gamma), f.beta = data_of<TY>(args.beta);
    f.y = data_of<TY>(args.y), f.sum = data_of<TX>(args.sum);
    f.rstd = data_of<A>(args.rstd), f.mean = data_of<A>(args.mean);
    f.x_rows = row_offsets(args.x), f.residual_rows = row_offsets(args.residual);
    f.y_rows = row_offsets(args.y), f.sum_rows = row_offsets(args.sum);
    f.rows = count_rows(args.x), f.n = narrow<int>(args.x.shape.back());
    f.offset = options.zero_centered ? A(1) : A(0);
    f.epsilon = static_cast<A>(options.epsilon);
    bool aligned = true;
    for (const Tensor* t : {&args.x, &args.residual, &args.gamma, &args.beta, &args.y, &args.sum})
      aligned = aligned && allows_packs(*t, kPackOf<TX, TY>);
    launch_forward<decltype(mean)::value>(f, aligned, stream_of(stream));
  });
  check_launch(("norm of " + to_string(args.x.shape)).c_str());
}

}  // namespace megatron
