// CUDA kernels of the fused head and cross entropy: chunk of tokens by chunk of tokens, logits = x w^T in the
// accumulator type, one block per token turns them into their gradient in place, then dx = dlogits w and dw +=
// dlogits^T x. Where ranks share the vocabulary, they agree on the largest logit and on the sum of exponentials in
// between.
#include <limits>

#include "kernels/cuda/cuda_types.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/linear/gemm_cuda.h"
#include "kernels/lm_head_loss/lm_head_loss.h"
#include "program/comm.h"

namespace megatron {
namespace {

using namespace cuda;  // NOLINT

constexpr int kThreads = 512;
constexpr int kLossThreads = 1024;
/// Shared memory for a part of a row, so that it is read from memory once: two blocks on a multiprocessor, or one.
constexpr int64_t kKeptByTwo = 110 << 10, kKeptByOne = 220 << 10;

/// Exponential for logits of type T: the fast one where results are rounded to 16 bits.
template <typename T>
__device__ __forceinline__ double exp_of(double x) {
  return exp(x);
}
template <typename T>
__device__ __forceinline__ float exp_of(float x) {
  return sizeof(T) == 2 ? __expf(x) : expf(x);
}

/// One chunk of tokens, the first of them number `first`; rows of logits [ld] whose columns [vocab, columns) are
/// padding. Column 0 is id `first_row` of `ids`.
template <typename T>
struct Chunk {
  using A = Accumulator<T>;
  A* logits;
  int64_t ld, columns, vocab, first, first_row, ids;
  const int32_t* labels;
  const float* weights;
  const A* seed;
  A* token_loss;
  bool gradient;

  __device__ __forceinline__ int64_t token() const { return first + blockIdx.x; }
  __device__ __forceinline__ A* row() const { return logits + int64_t{blockIdx.x} * ld; }
  /// Gradients of the logits begin where the row begins.
  __device__ __forceinline__ T* gradient_row() const { return reinterpret_cast<T*>(row()); }
  __device__ __forceinline__ bool valid(int64_t label) const { return label >= 0 && label < ids; }
  /// Logit of the label where this rank has it, 0 where another one has, NaN where none has.
  __device__ __forceinline__ A target(int64_t label) const {
    if (!valid(label)) return A(NAN);
    const int64_t column = label - first_row;
    return column >= 0 && column < vocab ? row()[column] : A(0);
  }
};

/// Largest value and sum of exp(value - largest) seen so far.
template <typename A>
struct Softmax {
  A top, sum;
};

template <typename T, typename A, int N>
__device__ __forceinline__ void add_values(Softmax<A>& s, const A (&x)[N]) {
  A top = s.top;
#pragma unroll
  for (int i = 0; i < N; ++i) top = x[i] > top ? x[i] : top;
  const A lowest = -A(INFINITY);
  if (top > s.top) {
    s.sum = s.top == lowest ? s.sum : s.sum * exp_of<T>(s.top - top);
    s.top = top;
  }
  const A shift = top == lowest ? A(0) : top;
#pragma unroll
  for (int i = 0; i < N; ++i) s.sum += exp_of<T>(x[i] - shift);
}

/// Softmax of a row's vocab values, given to all threads. The first `kept_count` go to `kept`.
template <typename T, int kBlock>
__device__ __forceinline__ Softmax<Accumulator<T>> scan_row(const Accumulator<T>* row, int64_t vocab,
                                                            Accumulator<T>* kept, int64_t kept_count) {
  using A = Accumulator<T>;
  constexpr int kPack = kPerVector<A>, kBatch = 4;
  const A lowest = -A(INFINITY);
  const int64_t packs = (vocab + kPack - 1) / kPack;
  Softmax<A> s{lowest, A(0)};
  for (int64_t base = threadIdx.x; base < packs; base += kBlock * kBatch) {
    Pack<A, kPack> raw[kBatch];
#pragma unroll
    for (int u = 0; u < kBatch; ++u) {
      if (base + u * kBlock < packs) raw[u] = load_pack<A, kPack>(row + (base + u * kBlock) * kPack);
    }
#pragma unroll
    for (int u = 0; u < kBatch; ++u) {
      const int64_t p = base + u * kBlock;
      if (p >= packs) break;
      if ((p + 1) * kPack <= kept_count) store_pack<A, kPack>(kept + p * kPack, raw[u]);
      A x[kPack];
#pragma unroll
      for (int i = 0; i < kPack; ++i) x[i] = p * kPack + i < vocab ? raw[u].v[i] : lowest;
      add_values<T>(s, x);
    }
  }
  const A top = block_max<kBlock>(s.top);
  const A mine = s.top == lowest ? s.sum : s.sum * exp_of<T>(s.top - top);
  return {top, block_sum<kBlock>(mine)};
}

/// The row becomes factor * (softmax - onehot) in type T, columns in [vocab, columns) zero; `column` is the label's, or
/// one that is not there. The first `kept_count` logits are read from `kept`.
template <typename T, int kBlock>
__device__ __forceinline__ void write_gradient(const Chunk<T>& c, Softmax<Accumulator<T>> s, Accumulator<T> factor,
                                               int64_t column, const Accumulator<T>* kept, int64_t kept_count) {
  using A = Accumulator<T>;
  constexpr int kPack = kPerVector<T>, kStep = kBlock * kPack, kRatio = sizeof(A) / sizeof(T);
  const A* row = c.row();
  T* out = c.gradient_row();
  const A scale = factor / s.sum;
  for (int64_t base = 0; base < c.columns; base += kStep) {
    const int64_t j = base + threadIdx.x * kPack;
    A x[kPack];
    if (j < c.columns) {  // rows end on a multiple of 64
      load_values<kPack>(j + kPack <= kept_count ? kept + j : row + j, x);
#pragma unroll
      for (int i = 0; i < kPack; ++i) {
        x[i] = j + i < c.vocab ? exp_of<T>(x[i] - s.top) * scale : A(0);
        if (j + i == column) x[i] -= factor;
      }
    }
    // What is written may lie where others still have to read, unless all of that is kept.
    if (kRatio > 1 && (base + kStep) / kRatio > kept_count) __syncthreads();
    if (j < c.columns) store_values<kPack>(out + j, x);
  }
}

template <typename T, int kBlock>
__device__ __forceinline__ void write_zeros(const Chunk<T>& c) {
  for (int64_t j = threadIdx.x; j < c.columns; j += kBlock) {
    c.gradient_row()[j] = from_accumulator<T>(Accumulator<T>(0));
  }
}

/// The whole vocabulary is here: loss of the token, and its logits become their gradient.
template <typename T, int kBlock>
__global__ void __launch_bounds__(kBlock) token_softmax(Chunk<T> c, int64_t kept_count) {
  using A = Accumulator<T>;
  extern __shared__ uint4 shared[];
  A* kept = reinterpret_cast<A*>(shared);
  const int64_t token = c.token();
  const float weight = c.weights[token];
  if (weight == 0.0f) {
    if (threadIdx.x == 0) c.token_loss[token] = A(0);
    if (c.gradient) write_zeros<T, kBlock>(c);
    return;
  }
  const int64_t label = c.labels[token];
  const A target = threadIdx.x == 0 ? c.target(label) : A(0);  // before the row is overwritten
  const Softmax<A> s = scan_row<T, kBlock>(c.row(), c.vocab, kept, kept_count);
  if (threadIdx.x == 0) c.token_loss[token] = s.top + log(s.sum) - target;
  if (!c.gradient) return;
  const A factor = c.valid(label) ? *c.seed * static_cast<A>(weight) : A(NAN);
  write_gradient<T, kBlock>(c, s, factor, label, kept, kept_count);
}

// With a shared vocabulary: tops, then sums and targets, are [count] each.

/// tops = largest local logit (the lowest number where there is none); sums = log of the sum of exponentials of the
/// local logits, which needs no second look at them; targets.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    shard_scan(Chunk<T> c, Accumulator<T> lowest, Accumulator<T>* tops, Accumulator<T>* sums, Accumulator<T>* targets) {
  using A = Accumulator<T>;
  Softmax<A> s{A(0), A(1)};
  const bool counts = c.weights[c.token()] != 0.0f;
  if (counts) s = scan_row<T, kThreads>(c.row(), c.vocab, nullptr, 0);
  if (threadIdx.x != 0) return;
  tops[blockIdx.x] = s.top < lowest ? lowest : s.top;
  sums[blockIdx.x] = s.top + log(s.sum);
  targets[blockIdx.x] = counts ? c.target(c.labels[c.token()]) : A(0);
}

/// sums = sum of exp(local logits - top of all ranks).
template <typename A>
__global__ void shift_sums(const A* tops, A* sums, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) sums[i] = exp(sums[i] - tops[i]);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    shard_gradient(Chunk<T> c, const Accumulator<T>* tops, const Accumulator<T>* sums, const Accumulator<T>* targets) {
  using A = Accumulator<T>;
  const int64_t token = c.token();
  const float weight = c.weights[token];
  const Softmax<A> s{tops[blockIdx.x], sums[blockIdx.x]};
  if (threadIdx.x == 0) c.token_loss[token] = weight == 0.0f ? A(0) : s.top + log(s.sum) - targets[blockIdx.x];
  if (!c.gradient) return;
  if (weight == 0.0f) return write_zeros<T, kThreads>(c);
  const int64_t label = c.labels[token];
  const A factor = c.valid(label) ? *c.seed * static_cast<A>(weight) : A(NAN);
  write_gradient<T, kThreads>(c, s, factor, label - c.first_row, nullptr, 0);
}

/// loss (+)= sum of weight * token_loss, in fp64, by one block.
template <typename A>
__global__ void __launch_bounds__(kLossThreads)
    sum_losses(const A* token_loss, const float* weights, int64_t tokens, A* loss, bool add) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < tokens; i += kLossThreads) {
    const float weight = weights[i];
    if (weight != 0.0f) sum += static_cast<double>(weight) * static_cast<double>(token_loss[i]);
  }
  sum = block_sum<kLossThreads>(sum);
  if (threadIdx.x == 0) *loss = static_cast<A>(add ? static_cast<double>(*loss) + sum : sum);
}

/// Sets rows [begin, end) of dw to zero.
template <typename A>
void clear_rows(const LmHeadLossArgs& args, int64_t begin, int64_t end, void* stream) {
  const int64_t width = args.w.shape[1];
  if (begin >= end || width == 0) return;
  check_cuda(cudaMemsetAsync(data_of<A>(args.dw) + begin * width, 0,
                             static_cast<size_t>((end - begin) * width) * sizeof(A), stream_of(stream)),
             "cudaMemsetAsync");
}

template <typename T>
class Run {
 public:
  using A = Accumulator<T>;
  Run(const LmHeadLossArgs& args, void* workspace, void* stream)
      : args_(args), layout_(lm_head_loss_layout_cuda(args)), stream_(stream) {
    char* memory = static_cast<char*>(workspace);
    logits_ = reinterpret_cast<A*>(memory);
    token_loss_ = args.token_loss.data != nullptr ? data_of<A>(args.token_loss)
                                                  : reinterpret_cast<A*>(memory + layout_.logits_bytes);
    blas_ = memory + layout_.logits_bytes + layout_.token_loss_bytes;
    tops_ = reinterpret_cast<A*>(memory + layout_.sums_offset);
  }

  void operator()() {
    const int64_t tokens = args_.x.shape[0] * args_.x.shape[1];
    if (args_.dw && !args_.add_dw) clear_rows<A>(args_, tokens == 0 ? 0 : layout_.columns, args_.w.shape[0], stream_);
    for (int64_t first = 0; first < tokens; first += layout_.chunk) {
      run_chunk(first, first + layout_.chunk < tokens ? layout_.chunk : tokens - first);
    }
    if (args_.loss) {
      sum_losses<A><<<1, kLossThreads, 0, stream_of(stream_)>>>(token_loss_, data_of<float>(args_.weights), tokens,
                                                                data_of<A>(args_.loss), args_.add_loss);
      check_launch("lm_head_loss: sum");
    }
  }

 private:
  void run_chunk(int64_t first, int64_t count) {
    constexpr DType kType = dtype_of<T>::value, kWide = dtype_of<A>::value;
    const int64_t width = args_.x.shape[2], columns = layout_.columns, ld = layout_.ld;
    const int64_t gradient_ld = ld * static_cast<int64_t>(sizeof(A) / sizeof(T));
    const T* x = data_of<T>(args_.x) + first * width;
    const T* w = data_of<T>(args_.w);
    gemm_cuda({false, true, count, columns, width, x, width, w, width, logits_, ld, kType, kWide}, blas_, stream_);
    const Chunk<T> chunk{logits_,
                         ld,
                         columns,
                         local_vocab(args_),
                         first,
                         args_.first_row,
                         args_.valid_vocab,
                         data_of<int32_t>(args_.labels),
                         data_of<float>(args_.weights),
                         data_of<A>(args_.seed),
                         token_loss_,
                         args_.dx || args_.dw};
    args_.ranks > 1 ? shared_softmax(chunk, count) : softmax(chunk, count);
    if (args_.dx) {
      T* dx = data_of<T>(args_.dx) + first * width;
      gemm_cuda({false, false, count, width, columns, logits_, gradient_ld, w, width, dx, width, kType, kType}, blas_,
                stream_);
    }
    if (args_.dw) {
      gemm_cuda({true, false, columns, width, count, logits_, gradient_ld, x, width, data_of<A>(args_.dw), width, kType,
                 kWide, args_.add_dw || first > 0},
                blas_, stream_);
    }
  }

  void softmax(const Chunk<T>& chunk, int64_t count) {
    const int64_t row = chunk.ld * static_cast<int64_t>(sizeof(A));
    row <= kKeptByTwo ? softmax_with<kThreads>(chunk, count, row)
                      : softmax_with<2 * kThreads>(chunk, count, row < kKeptByOne ? row : kKeptByOne);
  }
  template <int kBlock>
  void softmax_with(const Chunk<T>& chunk, int64_t count, int64_t kept) {
    check_cuda(cudaFuncSetAttribute(token_softmax<T, kBlock>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(kKeptByOne)),
               "lm_head_loss: shared memory");
    token_softmax<T, kBlock><<<static_cast<unsigned>(count), kBlock, static_cast<size_t>(kept), stream_of(stream_)>>>(
        chunk, kept / static_cast<int64_t>(sizeof(A)));
    check_launch("lm_head_loss: softmax");
  }

  /// The steps that the header lists.
  void shared_softmax(const Chunk<T>& chunk, int64_t count) {
    A *sums = tops_ + count, *targets = sums + count;
    const auto blocks = static_cast<unsigned>(count);
    shard_scan<T>
        <<<blocks, kThreads, 0, stream_of(stream_)>>>(chunk, std::numeric_limits<A>::lowest(), tops_, sums, targets);
    check_launch("lm_head_loss: scan");
    args_.comm->all_reduce(make_tensor(tops_, dtype_of<A>::value, {count}), Reduction::kMax, stream_);
    shift_sums<A><<<grid_size(count, 256), 256, 0, stream_of(stream_)>>>(tops_, sums, count);
    check_launch("lm_head_loss: sums");
    args_.comm->all_reduce(make_tensor(sums, dtype_of<A>::value, {2 * count}), Reduction::kSum, stream_);
    shard_gradient<T><<<blocks, kThreads, 0, stream_of(stream_)>>>(chunk, tops_, sums, targets);
    check_launch("lm_head_loss: gradient");
  }

  const LmHeadLossArgs& args_;
  LmHeadLossLayout layout_;
  void* stream_;
  A *logits_, *token_loss_, *tops_;
  void* blas_;
};

}  // namespace

void lm_head_loss_cuda(const LmHeadLossArgs& args, void* workspace, void* stream) {
  dispatch_cuda("lm_head_loss", args.x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    Run<T> run(args, workspace, stream);
    run();
  });
}

}  // namespace megatron
