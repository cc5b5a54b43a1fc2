// The language-model head and the cross entropy in one: logits exist for one chunk of tokens at a time only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>

#include "program/op_kind.h"
#include "program/trace.h"

namespace megatron {

class Comm;
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
///
/// Where w is sharded over its rows on one mesh axis (tensor parallelism: Shoeybi et al., arXiv:1909.08053, section 3)
/// the operation communicates over it: x must be replicated, every rank works on its rows, the loss is replicated, dw
/// sharded and dx partial. Over all other axes the general rule holds: sharded tokens give a partial loss and dw.
LmHeadLossResult lm_head_loss_all(Trace& trace, Value x, Value w, Value labels, Value weights, Value seed,
                                  int64_t valid_vocab);

/// The same, for callers that want the loss alone.
Value lm_head_loss(Trace& trace, Value x, Value w, Value labels, Value weights, Value seed, int64_t valid_vocab);

/// How the rows of w are spread.
struct VocabularyShards {
  std::string axis;       ///< mesh axis; "": every rank has all rows
  int ranks = 1;          ///< along the axis
  int64_t most_rows = 0;  ///< that any of them holds
};

/// Operands x, w, labels, weights, seed; results loss, dx, dw, token_loss.
std::shared_ptr<const OpKind> lm_head_loss_kind(int64_t valid_vocab, const VocabularyShards& shards = {});

struct LmHeadLossArgs {
  Tensor x, w, labels, weights, seed;
  Tensor loss, dx, dw, token_loss;  ///< data null: not wanted
  bool add_loss = false, add_dw = false;
  int64_t valid_vocab = 0;
  int64_t first_position = 0, first_sample = 0;  ///< global index of the first local token, for messages
  int64_t first_row = 0;                         ///< global index of the first local row of w
  int ranks = 1;                                 ///< that share the vocabulary
  int64_t most_rows = 0;                         ///< local rows of the rank that has most; unused when ranks is 1
  Comm* comm = nullptr;                          ///< of these ranks; null when ranks is 1, and in workspace sizes
};

/// Local rows of w that are ids of the vocabulary: none on a rank that holds padding alone.
inline int64_t local_vocab(const LmHeadLossArgs& args) {
  return std::clamp<int64_t>(args.valid_vocab - args.first_row, 0, args.w.shape[0]);
}
/// The largest local_vocab() of all ranks: what the number of tokens in a chunk follows from.
inline int64_t widest_vocab(const LmHeadLossArgs& args) {
  return std::min(args.valid_vocab, args.ranks > 1 ? args.most_rows : args.w.shape[0]);
}

void lm_head_loss_cpu(const LmHeadLossArgs& args, void* workspace, ThreadPool* pool);
/// Bytes of `workspace`: the logits of one chunk, and fp32 copies of 16-bit operands.
int64_t lm_head_loss_workspace_cpu(const LmHeadLossArgs& args);
/// Tokens per chunk on the CPU: the logits of a chunk fill about 32 MiB, so that dw, which every chunk passes through
/// memory, costs little beside the products. A function of the shapes alone.
int64_t lm_head_loss_chunk_cpu(const LmHeadLossArgs& args);

// With ranks > 1 both devices do for every chunk of `count` tokens, in this order on all ranks (the number of tokens in
// a chunk follows from widest_vocab(), so that it is equal everywhere):
//   1. logits of the local rows; top[i] = their maximum, the lowest finite number where there are none
//   2. all_reduce of top [count] with the maximum
//   3. sums[i] = sum of exp(logits - top), targets[i] = logit of the label where its row is local, else 0
//   4. all_reduce of sums and targets at once [2 * count]
//   5. nll = top + log(sum) - target; gradient of the logits = seed * weight * (exp(logits - top) / sum - onehot), the
//      onehot on the rank that has the row; then dx (of the local rows) and dw.
// Tokens of weight 0 take part in 2 and 4 with any finite numbers and are cleared in step 5. A label is judged against
// [0, valid_vocab) on every rank alike (the CPU before the first collective). dx and dw that nobody reads are not made;
// steps 2 and 4 run always. A rank may have no ids at all: its dx is zero.

/// On the GPU: the products through cuBLASLt; logits in fp32 (fp64), their gradient in the type of x and in the same
/// memory. There steps 1 and 3 read the logits once: sums are taken below the local maximum and shifted to the common
/// one. `stream` is a cudaStream_t. `workspace`: logits of
/// one chunk, losses of all tokens, cuBLASLt's, and with ranks > 1, 3 * chunk numbers of the accumulator type: tops,
/// sums, targets.
void lm_head_loss_cuda(const LmHeadLossArgs& args, void* workspace, void* stream);
int64_t lm_head_loss_workspace_cuda(const LmHeadLossArgs& args);

/// How the workspace is cut on the GPU; a function of shapes and types alone.
struct LmHeadLossLayout {
  int64_t chunk = 0;    ///< tokens whose logits exist at once
  int64_t columns = 0;  ///< local rows of w that take part: ids, and padding up to a multiple of 64; may be 0
  int64_t ld = 0;       ///< elements from one row of logits to the next
  int64_t logits_bytes = 0, token_loss_bytes = 0;
  int64_t sums_offset = 0, sums_bytes = 0;  ///< tops, sums and targets: bytes from the start of the workspace
};
LmHeadLossLayout lm_head_loss_layout_cuda(const LmHeadLossArgs& args);

}  // namespace megatron
