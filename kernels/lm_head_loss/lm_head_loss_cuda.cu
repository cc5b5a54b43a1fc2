// CUDA kernels of the fused head and cross entropy: chunk of tokens by chunk of tokens, logits = x w^T in the
// accumulator type, one block per token turns them into their gradient in place, then dx = dlogits w and dw +=
// dlogits^T x.
#include "kernels/cuda/cuda_types.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/linear/gemm_cuda.h"
#include "kernels/lm_head_loss/lm_head_loss.h"

namespace megatron {
namespace {

using namespace cuda;  // NOLINT

constexpr int kThreads = 512;
constexpr int kLossThreads = 1024;

/// Exponential for logits of operands T: the fast one where results are rounded to 16 bits.
template <typename T>
__device__ __forceinline__ double exp_of(double x) {
  return exp(x);
}
template <typename T>
__device__ __forceinline__ float exp_of(float x) {
  return sizeof(T) == 2 ? __expf(x) : expf(x);
}

/// Largest value and sum of exp(value - largest) seen so far.
template <typename A>
struct Softmax {
  A top, sum;
};

template <typename T, typename A>
__device__ __forceinline__ Softmax<A> row_softmax(const A* row, int64_t vocab) {
  constexpr int kPack = 4;
  const A lowest = -A(INFINITY);
  Softmax<A> s{lowest, A(0)};
  for (int64_t j = int64_t{threadIdx.x} * kPack; j < vocab; j += kThreads * kPack) {
    A x[kPack];
    load_values<kPack>(row + j, x);  // rows end on a multiple of 64
    A top = s.top;
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      if (j + i >= vocab) x[i] = lowest;
      top = x[i] > top ? x[i] : top;
    }
    if (top > s.top) {
      s.sum = s.top == lowest ? s.sum : s.sum * exp_of<T>(s.top - top);
      s.top = top;
    }
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      if (j + i < vocab) s.sum += exp_of<T>(x[i] - (s.top == lowest ? A(0) : s.top));
    }
  }
  const A top = block_max<kThreads>(s.top);
  const A mine = s.top == lowest ? s.sum : s.sum * exp_of<T>(s.top - top);
  return {top, block_sum<kThreads>(mine)};
}

/// logits [chunk, ld] of tokens first ... become seed * weight * (softmax - onehot) in type T, at the beginning of each
/// row; columns in [vocab, columns) become zero. token_loss[token] = nll.
template <typename T, typename A>
__global__ void __launch_bounds__(kThreads)
    token_softmax(A* logits, int64_t ld, int64_t columns, int64_t vocab, int64_t first, const int32_t* labels,
                  const float* weights, const A* seed, A* token_loss, bool gradient) {
  const int64_t token = first + blockIdx.x;
  A* row = logits + int64_t{blockIdx.x} * ld;
  T* out = reinterpret_cast<T*>(row);
  const float weight = weights[token];
  if (weight == 0.0f) {
    if (threadIdx.x == 0) token_loss[token] = A(0);
    if (!gradient) return;
    for (int64_t j = threadIdx.x; j < columns; j += kThreads) out[j] = from_accumulator<T>(A(0));
    return;
  }
  const int32_t label = labels[token];
  const bool valid = label >= 0 && label < vocab;
  const Softmax<A> s = row_softmax<T>(row, vocab);
  const A target = valid ? row[label] : A(NAN);
  if (threadIdx.x == 0) token_loss[token] = s.top + log(s.sum) - target;
  if (!gradient) return;
  const A factor = valid ? *seed * static_cast<A>(weight) : A(NAN);
  const A scale = factor / s.sum;
  constexpr int kPack = 4;
  // A step writes where this and earlier steps have read: what T needs is at most what A needs.
  for (int64_t base = 0; base < columns; base += kThreads * kPack) {
    const int64_t j = base + threadIdx.x * kPack;
    A x[kPack];
    if (j < columns) {
      load_values<kPack>(row + j, x);
#pragma unroll
      for (int i = 0; i < kPack; ++i) {
        x[i] = j + i < vocab ? exp_of<T>(x[i] - s.top) * scale : A(0);
        if (j + i == label) x[i] -= factor;
      }
    }
    __syncthreads();  // also keeps row[label] above until all have read it
    if (j < columns) store_values<kPack>(out + j, x);
  }
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
    const int64_t width = args_.x.shape[2], columns = layout_.columns;
    const int64_t ld = layout_.ld * static_cast<int64_t>(sizeof(A) / sizeof(T));  // of the gradient of the logits
    const T* x = data_of<T>(args_.x) + first * width;
    const T* w = data_of<T>(args_.w);
    gemm_cuda({false, true, count, columns, width, x, width, w, width, logits_, layout_.ld, kType, kWide}, blas_,
              stream_);
    token_softmax<T, A><<<static_cast<unsigned>(count), kThreads, 0, stream_of(stream_)>>>(
        logits_, layout_.ld, columns, args_.valid_vocab, first, data_of<int32_t>(args_.labels),
        data_of<float>(args_.weights), data_of<A>(args_.seed), token_loss_, args_.dx || args_.dw);
    check_launch("lm_head_loss: softmax");
    if (args_.dx) {
      T* dx = data_of<T>(args_.dx) + first * width;
      gemm_cuda({false, false, count, width, columns, logits_, ld, w, width, dx, width, kType, kType}, blas_, stream_);
    }
    if (args_.dw) {
      gemm_cuda({true, false, columns, width, count, logits_, ld, x, width, data_of<A>(args_.dw), width, kType, kWide,
                 args_.add_dw || first > 0},
                blas_, stream_);
    }
  }

  const LmHeadLossArgs& args_;
  LmHeadLossLayout layout_;
  void* stream_;
  A *logits_, *token_loss_;
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
