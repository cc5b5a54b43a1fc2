// One attention from several over parts of the keys.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "kernels/attention/attention.h"
#include "program/op_kind.h"
#include "program/trace.h"

namespace megatron {

class ThreadPool;

/// Emits the gradient of attention over all keys: context has the operands, of which the caller's own begin at `first`,
/// and the results out and lse.
using MergeGradient = std::function<void(BackwardContext& context, int first)>;

constexpr int64_t kMostMergedParts = 64;

/// Of parts (out_i [s,b,g,q,e], lse_i [b,g,q,s]) as attention() gives them for keys that no other part has:
///   lse = log sum_i exp(lse_i), out = sum_i exp(lse_i - lse) out_i (Rabe and Staats 2021, arXiv:2112.05682);
/// zero and the lowest number where no part sees a key. The results are attention over all the keys, so their gradient
/// is the caller's, who knows where the keys come from: it follows from the operands `sources` (queries, keys, values,
/// ...), which the kernel does not read, and is emitted by `gradient`. The parts themselves get none.
AttentionResult attention_merge(Trace& trace, const std::vector<AttentionResult>& parts,
                                const std::vector<Value>& sources, MergeGradient gradient);

/// Operands out_0, lse_0, out_1, lse_1, ..., then the sources; results out, lse.
std::shared_ptr<const OpKind> attention_merge_kind(int64_t parts, MergeGradient gradient);

/// Contiguous; results may be absent.
struct AttentionMergeArgs {
  std::vector<Tensor> outs, lses;
  Tensor out, lse;
};
void attention_merge_cpu(const AttentionMergeArgs& args, ThreadPool* pool);
void attention_merge_cuda(const AttentionMergeArgs& args, void* stream);

}  // namespace megatron
