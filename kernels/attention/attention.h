// Scaled dot-product attention with grouped queries, causal and sliding windows, and dropout; never stores all scores.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/zigzag.h"
#include "program/op_kind.h"
#include "program/trace.h"

namespace megatron {

class ThreadPool;

/// What runs attention on a GPU: the best that takes the case (attention_choice.h), or always the one.
enum class AttentionImplementation : uint8_t { kBest, kOwn, kCudnn };

/// Which parts of a sequence that `ranks` share (base/zigzag.h) the queries and the keys are. Masks and dropout go by
/// the places in the whole sequence.
struct SequenceParts {
  int64_t ranks = 1;
  int64_t queries = 0, keys = 0;
};

struct AttentionOptions {
  double softmax_scale = 1.0;  ///< usually 1 / sqrt(d)
  /// Query i sees no key after i + (t - s): aligned at the bottom right when s != t.
  bool causal = true;
  /// Query i sees keys i + (t - s) - left ... i + (t - s) + right; -1: no limit. (127, 0) is a window of 128.
  int64_t window_left = -1, window_right = -1;
  double dropout = 0.0;  ///< probability of dropping an entry of the softmax
  uint64_t seed = 0;     ///< with `name`, the key of the dropout mask
  std::string name;
  /// The gradient has the same bits every time. Only a GPU can do without: there some gradients are then faster.
  bool deterministic = true;
  AttentionImplementation implementation = AttentionImplementation::kBest;
  SequenceParts parts;
  int64_t first_group = -1;  ///< global index of this rank's first group, where the placement does not tell it
  /// Bytes of workspace at which a GPU starts to take samples and groups of heads in parts. Deterministic gradients of
  /// cuDNN need 2 bytes a score; fewer than four groups of long sequences at once would not keep a GPU busy.
  int64_t workspace_limit = int64_t{5} << 29;
};

/// Optional operands; absent ones have no effect.
struct AttentionExtras {
  Value starts;                  ///< [s, b] int32: place of the first key that a query sees (packed documents)
  Value step, sample, position;  ///< with dropout > 0: scalar int64, [b] int64, [s, b] int32
};

struct AttentionResult {
  Value out;  ///< [s, b, g, q, e]
  /// [b, g, q, s] (the layout that cuDNN asks for) in the accumulator type: log of the softmax denominator; the lowest
  /// finite number for a query that sees no key.
  Value lse;
};

/// out[s,b,g,q,:] = sum_t dropout(softmax_t(scale * q[s,b,g,q,:] . k[t,b,g,:])) v[t,b,g,:], over the keys that the
/// query sees; zero when it sees none. q [s,b,g,q,d], k [t,b,g,d], v [t,b,g,e]: g key-value groups with q query heads
/// each (q = 1: multi-head, g = 1: multi-query). Softmax in fp64 for fp64, else fp32. Operands may be strided views.
/// Dropout bits are keyed by (seed, name, global head g * heads per group + q, key index, query position, sample,
/// step). Where they are parts of a sequence, keys may have as many rows as queries, and are then placed as these are:
/// each rank takes the keys that it holds. Vaswani et al. 2017 (arXiv:1706.03762); memory-free form: Dao et al. 2022
/// (arXiv:2205.14135).
AttentionResult attention(Trace& trace, Value q, Value k, Value v, const AttentionOptions& options,
                          const AttentionExtras& extras = {});

/// Global sizes, which a rank cannot tell from its local tensors.
struct AttentionSizes {
  int64_t queries = 0, keys = 0, heads_per_group = 0;
};

/// Operands q, k, v, starts, step, sample, position; results out, lse.
std::shared_ptr<const OpKind> attention_kind(const AttentionOptions& options, const AttentionSizes& sizes);
/// Operands q, k, v, out, lse, dout, starts, step, sample, position; results dq, dk, dv.
std::shared_ptr<const OpKind> attention_backward_kind(const AttentionOptions& options, const AttentionSizes& sizes);

/// What the kernels work on. Innermost strides are 1, all others free.
struct AttentionArgs {
  AttentionOptions options;
  AttentionSizes sizes;
  Tensor q, k, v;                         ///< [s,b,g,q,d], [t,b,g,d], [t,b,g,e]
  Tensor starts, step, sample, position;  ///< data may be null
  Tensor last_key;                        ///< [s,b] int32: last key a query sees, in place of the index rule; -1: none
  Tensor out, lse;  ///< results of the forward, operands of the backward; lse, seen as [s,b,g,q], may be null
  RowPlaces query_places, key_places;       ///< query row s stands at the key of place query_places.at(s)
  int64_t first_group = 0, first_head = 0;  ///< global index of the first local group, query head
};

struct AttentionBackwardArgs {
  AttentionArgs forward;
  Tensor dout;
  Tensor dq, dk, dv;  ///< data may be null: not wanted
};

void attention_cpu(const AttentionArgs& args, void* workspace, ThreadPool* pool);
void attention_backward_cpu(const AttentionBackwardArgs& args, void* workspace, ThreadPool* pool);

/// Bytes of `workspace`; only shapes and types of the tensors are read.
int64_t attention_workspace_cpu(const AttentionArgs& args);
int64_t attention_backward_workspace_cpu(const AttentionBackwardArgs& args);

/// On the GPU; `stream` is a cudaStream_t. cuDNN where it takes the case (attention_choice.h), else our own kernels,
/// for dimensions up to 256: fp32 and fp64 multiply in their own type; bf16 and fp16 (dimensions up to 128) on the
/// tensor cores, with probabilities and their gradients rounded to the operands' type. Either gradient follows either
/// forward.
void attention_cuda(const AttentionArgs& args, void* workspace, void* stream);
void attention_backward_cuda(const AttentionBackwardArgs& args, void* workspace, void* stream);
int64_t attention_workspace_cuda(const AttentionArgs& args);
int64_t attention_backward_workspace_cuda(const AttentionBackwardArgs& args);

/// Our own kernels alone. The forward needs a workspace where few queries meet many keys of a cache, which it then cuts
/// into parts; the gradient needs one number a row.
void attention_own_cuda(const AttentionArgs& args, void* workspace, void* stream);
int64_t attention_own_workspace_cuda(const AttentionArgs& args);
void attention_backward_own_cuda(const AttentionBackwardArgs& args, void* workspace, void* stream);

/// The lse [s,b,g,q] of queries that see no key.
void fill_lowest_cuda(const Tensor& lse, void* stream);

/// What runs each kind of attention of the program on a GPU, and why: one line each, for the list of decisions.
std::vector<std::string> attention_decisions(const Program& program);

/// Parts of the keys that our own forward takes side by side on a GPU: more than 1 for up to 32 rows (queries times
/// heads of a group) of a cache, in 16-bit types with dimensions up to 128.
int64_t attention_splits_cuda(const AttentionArgs& args);

/// FLOPs of the two products of the forward: 2 (d + e) for each visible pair of query and key; causal counts half.
double attention_flops(const AttentionArgs& args);

}  // namespace megatron
