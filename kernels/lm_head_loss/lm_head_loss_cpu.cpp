// CPU kernel of the fused head and cross entropy: chunk of tokens by chunk of tokens, logits = x w^T, softmax and its
// gradient in place, dx = dlogits w, dw += dlogits^T x.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/strings.h"
#include "kernels/attention/row_math.h"
#include "kernels/attention/scratch.h"
#include "kernels/linear/gemm_cpu.h"
#include "kernels/lm_head_loss/lm_head_loss.h"

namespace megatron {
namespace {

/// Tokens per chunk: the logits of a chunk fill about 32 MiB, so that dw, which every chunk passes through memory,
/// costs little beside the products. A function of the shapes alone.
int64_t chunk_tokens(const LmHeadLossArgs& args) {
  constexpr int64_t kBytes = int64_t{32} << 20, kLeast = 64, kMost = 2048;
  const int64_t row = std::max<int64_t>(args.valid_vocab, 1) * size_of(accumulation_dtype(args.x.dtype));
  const int64_t tokens = args.x.shape[0] * args.x.shape[1];
  return std::min(std::clamp(kBytes / row / 16 * 16, kLeast, kMost), std::max<int64_t>(tokens, 1));
}

template <typename T>
struct Workspace {
  using A = Accumulator<T>;
  A *logits, *token_loss, *w = nullptr, *x = nullptr, *dx = nullptr;
  Workspace(Scratch& scratch, const LmHeadLossArgs& args) {
    const int64_t chunk = chunk_tokens(args), width = args.x.shape[2];
    logits = scratch.take<A>(chunk * args.valid_vocab);
    token_loss = scratch.take<A>(args.x.shape[0] * args.x.shape[1]);
    if constexpr (!std::is_same_v<T, A>) {
      w = scratch.take<A>(args.valid_vocab * width);
      x = scratch.take<A>(chunk * width);
      dx = scratch.take<A>(chunk * width);
    }
  }
};

template <typename T, typename A>
const A* widen(const T* from, A* copy, int64_t count, ThreadPool* pool) {
  if constexpr (std::is_same_v<T, A>) {
    return from;
  } else {
    pool->parallel_for(count, 1 << 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) copy[i] = static_cast<A>(from[i]);
    });
    return copy;
  }
}

/// All labels that count are in range, before anything is written.
void check_labels(const LmHeadLossArgs& args) {
  const int32_t* labels = args.labels.as<int32_t>();
  const float* weights = args.weights.as<float>();
  const int64_t batch = args.labels.shape[1];
  for (int64_t i = 0; i < args.labels.numel(); ++i) {
    if (weights[i] == 0.0f || (labels[i] >= 0 && labels[i] < args.valid_vocab)) continue;
    throw DataError(str_cat("label ", labels[i], " at position ", args.first_position + i / batch, " of sample ",
                            args.first_sample + i % batch, " of the micro-batch is outside the vocabulary of ",
                            args.valid_vocab, ". Was the data made with another tokenizer?"));
  }
}

/// Logits of one token become seed * weight * (softmax - onehot) when `gradient`; returns the nll.
template <typename A>
A token_softmax(A* row, int64_t vocab, int32_t label, A factor, bool gradient) {
  const A top = row_max(row, vocab), target = row[label];
  const A sum = exp_sum(row, vocab, top);
  if (gradient) {
    const A scale = factor / sum;
    for (int64_t j = 0; j < vocab; ++j) row[j] *= scale;
    row[label] -= factor;
  }
  return top + std::log(sum) - target;
}

template <typename A>
void chunk_softmax(const LmHeadLossArgs& args, int64_t first, int64_t count, A* logits, A* token_loss,
                   ThreadPool* pool) {
  const int32_t* labels = args.labels.as<int32_t>();
  const float* weights = args.weights.as<float>();
  const int64_t vocab = args.valid_vocab;
  const bool gradient = args.dx || args.dw;
  const A seed = gradient ? *args.seed.as<A>() : A(0);
  pool->parallel_for(count, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t token = first + i;
      A* row = logits + i * vocab;
      if (weights[token] == 0.0f) {
        token_loss[token] = 0;
        std::fill_n(row, vocab, A(0));
        continue;
      }
      token_loss[token] = token_softmax(row, vocab, labels[token], seed * static_cast<A>(weights[token]), gradient);
    }
  });
}

template <typename T>
void run(const LmHeadLossArgs& args, void* workspace, ThreadPool* pool) {
  using A = Accumulator<T>;
  Scratch scratch(static_cast<std::byte*>(workspace));
  const Workspace<T> memory(scratch, args);
  const int64_t tokens = args.x.shape[0] * args.x.shape[1], width = args.x.shape[2], vocab = args.valid_vocab;
  const int64_t chunk = chunk_tokens(args);
  const A* w = widen(args.w.as<T>(), memory.w, vocab * width, pool);
  A* dw = args.dw ? args.dw.as<A>() : nullptr;
  if (dw != nullptr && !args.add_dw) std::fill_n(dw, args.dw.numel(), A(0));
  for (int64_t first = 0; first < tokens; first += chunk) {
    const int64_t count = std::min(chunk, tokens - first);
    const A* x = widen(args.x.as<T>() + first * width, memory.x, count * width, pool);
    gemm(GemmArgs<A>{false, true, count, vocab, width, x, width, w, width, memory.logits, vocab, A(0)}, pool);
    chunk_softmax(args, first, count, memory.logits, memory.token_loss, pool);
    if (args.dx) {
      T* dx = args.dx.as<T>() + first * width;
      if constexpr (std::is_same_v<T, A>) {
        gemm(GemmArgs<A>{false, false, count, width, vocab, memory.logits, vocab, w, width, dx, width, A(0)}, pool);
      } else {
        gemm(GemmArgs<A>{false, false, count, width, vocab, memory.logits, vocab, w, width, memory.dx, width, A(0)},
             pool);
        for (int64_t i = 0; i < count * width; ++i) dx[i] = static_cast<T>(memory.dx[i]);
      }
    }
    if (dw != nullptr) {
      gemm(GemmArgs<A>{true, false, vocab, width, count, memory.logits, vocab, x, width, dw, width, A(1)}, pool);
    }
  }
  if (args.token_loss) std::copy_n(memory.token_loss, tokens, args.token_loss.as<A>());
  if (args.loss) {
    const float* weights = args.weights.as<float>();
    double sum = 0;
    for (int64_t i = 0; i < tokens; ++i) {
      if (weights[i] != 0.0f) sum += static_cast<double>(weights[i]) * static_cast<double>(memory.token_loss[i]);
    }
    A* loss = args.loss.as<A>();
    *loss = static_cast<A>(args.add_loss ? static_cast<double>(*loss) + sum : sum);
  }
}

}  // namespace

int64_t lm_head_loss_workspace_cpu(const LmHeadLossArgs& args) {
  return dispatch_floating("lm_head_loss", args.x.dtype, [&](auto tag) {
    Scratch scratch;
    const Workspace<decltype(tag)> memory(scratch, args);
    static_cast<void>(memory);
    return scratch.bytes();
  });
}

void lm_head_loss_cpu(const LmHeadLossArgs& args, void* workspace, ThreadPool* pool) {
  check_labels(args);
  dispatch_floating("lm_head_loss", args.x.dtype, [&](auto tag) { run<decltype(tag)>(args, workspace, pool); });
}

}  // namespace megatron
