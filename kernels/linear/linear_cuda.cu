// CUDA kernels of the linear layers: products through cuBLASLt, column sums for the bias.
#include "kernels/cuda/cuda_types.cuh"
#include "kernels/linear/gemm_cuda.h"
#include "kernels/linear/linear.h"

namespace megatron {
namespace {

using namespace cuda;  // NOLINT

constexpr int kSumRows = 8;  ///< rows that a block of kWarp x kSumRows threads reads at once

/// partial[block, column] = sum of rows [block * rows_each, ...) of dy; each thread has N columns.
template <typename T, typename A, int N>
__global__ void __launch_bounds__(kWarp* kSumRows)
    sum_row_blocks(const T* dy, A* partial, int64_t rows, int64_t columns, int64_t rows_each) {
  __shared__ A sums[kSumRows][kWarp * N];
  const int64_t column = (int64_t{blockIdx.x} * kWarp + threadIdx.x) * N;
  const int64_t begin = int64_t{blockIdx.y} * rows_each, end = begin + rows_each < rows ? begin + rows_each : rows;
  A sum[N] = {};
  if (column < columns) {
    for (int64_t r = begin + threadIdx.y; r < end; r += kSumRows) {
      A values[N];
      load_values<N>(dy + r * columns + column, values);
#pragma unroll
      for (int i = 0; i < N; ++i) sum[i] += values[i];
    }
  }
#pragma unroll
  for (int i = 0; i < N; ++i) sums[threadIdx.y][i * kWarp + threadIdx.x] = sum[i];
  __syncthreads();
  if (threadIdx.y != 0 || column >= columns) return;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    A total = 0;
    for (int y = 0; y < kSumRows; ++y) total += sums[y][i * kWarp + threadIdx.x];
    partial[int64_t{blockIdx.y} * columns + column + i] = total;
  }
}

template <typename A>
__global__ void sum_partials(const A* partial, A* db, int64_t blocks, int64_t columns, bool add) {
  const int64_t column = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (column >= columns) return;
  A sum = add ? db[column] : A(0);
  for (int64_t b = 0; b < blocks; ++b) sum += partial[b * columns + column];
  db[column] = sum;
}

}  // namespace

void linear_cuda(const LinearArgs& a, void* workspace, void* stream) {
  gemm_cuda({false, true, a.rows, a.out, a.in, a.x.data, a.in, a.weight.data, a.in, a.y.data, a.out, a.x.dtype,
             a.y.dtype, false, a.bias.data},
            workspace, stream);
}

void linear_data_gradient_cuda(const LinearDataGradientArgs& a, void* workspace, void* stream) {
  gemm_cuda({false, false, a.rows, a.in, a.out, a.dy.data, a.out, a.weight.data, a.in, a.dx.data, a.in, a.dy.dtype,
             a.dx.dtype, a.add},
            workspace, stream);
}

void linear_weight_gradient_cuda(const LinearWeightGradientArgs& a, void* workspace, void* stream) {
  gemm_cuda({true, false, a.out, a.in, a.rows, a.dy.data, a.out, a.x.data, a.in, a.dweight.data, a.in, a.dy.dtype,
             a.dweight.dtype, a.add},
            workspace, stream);
}

void bias_gradient_cuda(const BiasGradientArgs& args, void* workspace, void* stream) {
  if (args.out == 0) return;
  dispatch_cuda("bias_grad", args.dy.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Accumulator<T>;
    const int64_t each = bias_gradient_rows_cuda(args.rows), blocks = div_ceil(args.rows, each);
    const T* dy = data_of<T>(args.dy);
    A* partial = static_cast<A*>(workspace);
    const dim3 threads(kWarp, kSumRows);
    constexpr int kPack = kPerVector<T>;
    const bool packs = args.out % kPack == 0 && is_aligned(dy, 16);
    const dim3 grid(grid_size(args.out, kWarp * (packs ? kPack : 1)), static_cast<unsigned>(blocks));
    if (blocks > 0) {
      if (packs) {
        sum_row_blocks<T, A, kPack><<<grid, threads, 0, stream_of(stream)>>>(dy, partial, args.rows, args.out, each);
      } else {
        sum_row_blocks<T, A, 1><<<grid, threads, 0, stream_of(stream)>>>(dy, partial, args.rows, args.out, each);
      }
      check_launch("bias_grad");
    }
    sum_partials<A><<<grid_size(args.out, 256), 256, 0, stream_of(stream)>>>(partial, data_of<A>(args.dbias), blocks,
                                                                             args.out, args.add);
    check_launch("bias_grad sums");
  });
}

}  // namespace megatron
