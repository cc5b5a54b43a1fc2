#include <limits>

#include "kernels/attention_merge/attention_merge.h"
#include "kernels/cuda/cuda_types.cuh"

namespace megatron {
namespace {

using namespace cuda;  // NOLINT: device helpers

constexpr int kThreads = 256;

template <typename T>
struct Merge {
  const T* outs[kMostMergedParts];
  const Accumulator<T>* lses[kMostMergedParts];
  T* out;
  Accumulator<T>* lse;
  int parts;
  int64_t packs;                    ///< of all rows
  int64_t per_row, heads, queries;  ///< packs of a row; rows of a query; queries
};

/// One pack of the result per thread; the threads of a row find the same weights.
template <int N, typename T>
__global__ void __launch_bounds__(kThreads) merge_kernel(const Merge<T> m) {
  using A = Accumulator<T>;
  const int64_t pack = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (pack >= m.packs) return;
  const int64_t row = divide(pack, m.per_row), query = divide(row, m.heads);
  const int64_t at = (row - query * m.heads) * m.queries + query;
  const A none = std::numeric_limits<A>::lowest(), least = std::numeric_limits<float>::lowest();
  A top = none, sum = 0;
  for (int i = 0; i < m.parts; ++i) top = max(top, m.lses[i][at]);
  A values[N] = {};
  for (int i = 0; i < m.parts; ++i) {
    const A lse = m.lses[i][at];
    if (lse <= least) continue;
    const A weight = exp(lse - top);
    sum += weight;
    if (m.out == nullptr) continue;
    A part[N];
    load_values<N>(m.outs[i] + pack * N, part);
#pragma unroll
    for (int j = 0; j < N; ++j) values[j] += weight * part[j];
  }
  if (m.lse != nullptr && pack == row * m.per_row) m.lse[at] = sum == A(0) ? none : top + log(sum);
  if (m.out == nullptr) return;
  const A factor = sum == A(0) ? A(0) : A(1) / sum;
#pragma unroll
  for (int j = 0; j < N; ++j) values[j] *= factor;
  store_values<N>(m.out + pack * N, values);
}

template <int N, typename T>
void launch(Merge<T> m, int64_t rows, int64_t width, void* stream) {
  m.per_row = width / N;
  m.packs = rows * m.per_row;
  if (m.packs == 0) return;
  merge_kernel<N, T><<<grid_size(m.packs, kThreads), kThreads, 0, stream_of(stream)>>>(m);
  check_launch("attention_merge");
}

}  // namespace

void attention_merge_cuda(const AttentionMergeArgs& args, void* stream) {
  const Dims& shape = args.outs[0].shape;
  dispatch_cuda("attention_merge", args.outs[0].dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    Merge<T> m{};
    bool packs = allows_packs(args.out, 8);
    for (size_t i = 0; i < args.outs.size(); ++i) {
      m.outs[i] = data_of<T>(args.outs[i]);
      m.lses[i] = data_of<Accumulator<T>>(args.lses[i]);
      packs = packs && allows_packs(args.outs[i], 8);
    }
    m.out = data_of<T>(args.out);
    m.lse = data_of<Accumulator<T>>(args.lse);
    m.parts = narrow<int>(std::ssize(args.outs));
    m.heads = shape[1] * shape[2] * shape[3];
    m.queries = shape[0];
    const int64_t rows = m.heads * m.queries;
    if (sizeof(T) == 2 && packs) return launch<8>(m, rows, shape[4], stream);
    launch<1>(m, rows, shape[4], stream);
  });
}

}  // namespace megatron
