// CPU kernel of the fused head and cross entropy: chunk of tokens by chunk of tokens, logits = x w^T, softmax and its
// gradient in place, dx = dlogits w, dw += dlogits^T x; between them the ranks that share the vocabulary agree on the
// maximum and on the sum.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/strings.h"
#include "kernels/attention/row_math.h"
#include "kernels/attention/scratch.h"
#include "kernels/linear/gemm_cpu.h"
#include "kernels/lm_head_loss/lm_head_loss.h"
#include "program/comm.h"

namespace megatron {

int64_t lm_head_loss_chunk_cpu(const LmHeadLossArgs& args) {
  constexpr int64_t kBytes = int64_t{32} << 20, kLeast = 64, kMost = 2048;
  const int64_t row = std::max<int64_t>(widest_vocab(args), 1) * size_of(accumulation_dtype(args.x.dtype));
  const int64_t tokens = args.x.shape[0] * args.x.shape[1];
  return std::min(std::clamp(kBytes / row / 16 * 16, kLeast, kMost), std::max<int64_t>(tokens, 1));
}

namespace {

template <typename T>
struct Workspace {
  using A = Accumulator<T>;
  A *logits, *token_loss, *tops, *sums, *w = nullptr, *x = nullptr, *dx = nullptr;
  Workspace(Scratch& scratch, const LmHeadLossArgs& args) {
    const int64_t chunk = lm_head_loss_chunk_cpu(args), width = args.x.shape[2];
    logits = scratch.take<A>(chunk * local_vocab(args));
    token_loss = scratch.take<A>(args.x.shape[0] * args.x.shape[1]);
    tops = scratch.take<A>(chunk);
    sums = scratch.take<A>(2 * chunk);
    if constexpr (!std::is_same_v<T, A>) {
      w = scratch.take<A>(local_vocab(args) * width);
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

/// One chunk of tokens: rows of logits become seed * weight * (softmax - onehot).
template <typename A>
class ChunkSoftmax {
 public:
  ChunkSoftmax(const LmHeadLossArgs& args, int64_t first, int64_t count, A* logits, A* tops, A* sums)
      : args_(args),
        first_(first),
        count_(count),
        vocab_(local_vocab(args)),
        logits_(logits),
        tops_(tops),
        sums_(sums) {}

  void run(A* token_loss, ThreadPool* pool) const {
    const auto for_tokens = [&](const auto& body) {
      pool->parallel_for(count_, 4, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) body(i);
      });
    };
    for_tokens([&](int64_t i) { tops_[i] = counts(i) ? row_max(logits_ + i * vocab_, vocab_) : A(0); });
    if (args_.comm != nullptr)
      args_.comm->all_reduce(make_tensor(tops_, dtype_of<A>::value, {count_}), Reduction::kMax);
    for_tokens([&](int64_t i) {
      sums_[count_ + i] = owns(i) ? logits_[i * vocab_ + column(i)] : A(0);
      sums_[i] = counts(i) ? exp_sum(logits_ + i * vocab_, vocab_, tops_[i]) : A(0);
    });
    if (args_.comm != nullptr) args_.comm->all_reduce(make_tensor(sums_, dtype_of<A>::value, {2 * count_}));
    for_tokens([&](int64_t i) { finish(i, token_loss[first_ + i]); });
  }

 private:
  A weight(int64_t i) const { return static_cast<A>(args_.weights.as<float>()[first_ + i]); }
  bool counts(int64_t i) const { return weight(i) != A(0); }
  int64_t column(int64_t i) const { return args_.labels.as<int32_t>()[first_ + i] - args_.first_row; }
  /// Labels of tokens that do not count may be anything.
  bool owns(int64_t i) const { return counts(i) && column(i) >= 0 && column(i) < vocab_; }

  void finish(int64_t i, A& loss) const {
    A* row = logits_ + i * vocab_;
    if (!counts(i)) {
      loss = 0;
      std::fill_n(row, vocab_, A(0));
      return;
    }
    loss = tops_[i] + std::log(sums_[i]) - sums_[count_ + i];
    if (!args_.dx && !args_.dw) return;
    const A factor = *args_.seed.as<A>() * weight(i), scale = factor / sums_[i];
    for (int64_t j = 0; j < vocab_; ++j) row[j] *= scale;
    if (owns(i)) row[column(i)] -= factor;
  }

  const LmHeadLossArgs& args_;
  int64_t first_, count_, vocab_;
  A *logits_, *tops_, *sums_;
};

template <typename T>
void run(const LmHeadLossArgs& args, void* workspace, ThreadPool* pool) {
  using A = Accumulator<T>;
  Scratch scratch(static_cast<std::byte*>(workspace));
  const Workspace<T> memory(scratch, args);
  const int64_t tokens = args.x.shape[0] * args.x.shape[1], width = args.x.shape[2], vocab = local_vocab(args);
  const int64_t chunk = lm_head_loss_chunk_cpu(args);
  const A* w = widen(args.w.as<T>(), memory.w, vocab * width, pool);
  A* dw = args.dw ? args.dw.as<A>() : nullptr;
  if (dw != nullptr && !args.add_dw) std::fill_n(dw, args.dw.numel(), A(0));
  for (int64_t first = 0; first < tokens; first += chunk) {
    const int64_t count = std::min(chunk, tokens - first);
    const A* x = widen(args.x.as<T>() + first * width, memory.x, count * width, pool);
    gemm(GemmArgs<A>{false, true, count, vocab, width, x, width, w, width, memory.logits, vocab, A(0)}, pool);
    ChunkSoftmax<A>(args, first, count, memory.logits, memory.tops, memory.sums).run(memory.token_loss, pool);
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
