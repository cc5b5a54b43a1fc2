// The language-model head and the cross entropy in one: logits exist for one chunk of tokens at a time only.
#pragma once

#include <cstdint>
#include <memory>

#include "program/op_kind.h"
#include "program/trace.h"

namespace megatron {

class ThreadPool;

struct LmHeadLossResult {
  Value loss;        ///< scalar, accumulator type: sum over tokens of weight * nll; can accumulate
  Value token_loss;  ///< [s, b], accumulator type: nll of every token, 0 where the weight is 0
};

/// logits[s,b,v] = sum_c x[s,b,c] w[v,c] for v < valid_vocab (rows from valid_vocab on are padding: out of the softmax,
/// gradient zero); nll = log sum_v exp(logits) - logits[label]; loss = sum weight * nll. x [s,b,c], w [v,c], labels
/// [s,b] int32, weights [s,b] fp32, seed: scalar dL/dloss, accumulator type. The gradients dx = seed * weight *
/// (softmax - onehot) w and dw (fp32, fp64 for fp64; accumulates) are made by the forward itself where somebody reads
/// them. Inside, all is fp64 for fp64, else fp32. A token of weight 0 is skipped, its label may be anything; a label
/// outside [0, valid_vocab) of another token throws DataError naming its place; a GPU cannot throw: there the loss and
/// the gradients become NaN, so that the step is skipped and reported.
LmHeadLossResult lm_head_loss_all(Trace& trace, Value x, Value w, Value labels, Value weights, Value seed,
                                  int64_t valid_vocab);

/// The same, for callers that want the loss alone.
Value lm_head_loss(Trace& trace, Value x, Value w, Value labels, Value weights, Value seed, int64_t valid_vocab);

/// Operands x, w, labels, weights, seed; results loss, dx, dw, token_loss.
std::shared_ptr<const OpKind> lm_head_loss_kind(int64_t valid_vocab);

struct LmHeadLossArgs {
  Tensor x, w, labels, weights, seed;
  Tensor loss, dx, dw, token_loss;  ///< data null: not wanted
  bool add_loss = false, add_dw = false;
  int64_t valid_vocab = 0;
  int64_t first_position = 0, first_sample = 0;  ///< global index of the first local token, for messages
};

void lm_head_loss_cpu(const LmHeadLossArgs& args, void* workspace, ThreadPool* pool);
/// Bytes of `workspace`: the logits of one chunk, and fp32 copies of 16-bit operands.
int64_t lm_head_loss_workspace_cpu(const LmHeadLossArgs& args);

/// On the GPU: the products through cuBLASLt; logits in fp32 (fp64), their gradient in the type of x and in the same
/// memory. `stream` is a cudaStream_t. `workspace`: logits of one chunk, losses of all tokens, and cuBLASLt's.
void lm_head_loss_cuda(const LmHeadLossArgs& args, void* workspace, void* stream);
int64_t lm_head_loss_workspace_cuda(const LmHeadLossArgs& args);

/// How the workspace is cut on the GPU; a function of shapes and types alone.
struct LmHeadLossLayout {
  int64_t chunk = 0;    ///< tokens whose logits exist at once
  int64_t columns = 0;  ///< rows of w that take part: valid_vocab, and padding up to a multiple of 64
  int64_t ld = 0;       ///< elements from one row of logits to the next
  int64_t logits_bytes = 0, token_loss_bytes = 0;
};
LmHeadLossLayout lm_head_loss_layout_cuda(const LmHeadLossArgs& args);

}  // namespace megatron
