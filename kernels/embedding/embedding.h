// Table lookup: y[..., b] = weight[ids[..., b]].
#pragma once

#include <memory>
#include <optional>

#include "program/op_kind.h"
#include "program/trace.h"

namespace megatron {

/// weight [v, c], ids [..., b] int32 -> [..., b, c] of dtype `out` (the weight's when not given). Where the table is
/// sharded over its rows the result is partial: ids that belong to other ranks give zero rows. Ids outside [0, v) give
/// zero rows everywhere and no gradient. The weight gradient adds up in token order, in fp32 (fp64).
Value embedding(Trace& trace, Value weight, Value ids, std::optional<DType> out = std::nullopt);

/// Operands weight, ids; result y.
std::shared_ptr<const OpKind> embedding_kind(std::optional<DType> out = std::nullopt);

/// `first_row` is the global index of the first local row of the table.
struct EmbeddingArgs {
  Tensor weight, ids, y;
  int64_t first_row = 0;
};
struct EmbeddingBackwardArgs {
  Tensor dy, ids, dweight;
  int64_t first_row = 0;
  bool add = false;
};

class ThreadPool;
void embedding_cpu(const EmbeddingArgs& args, ThreadPool* pool);
void embedding_backward_cpu(const EmbeddingBackwardArgs& args, ThreadPool* pool);

/// Device pointers; `stream` is a cudaStream_t. Only in builds with CUDA.
void embedding_cuda(const EmbeddingArgs& args, void* stream);
/// `workspace`: embedding_backward_workspace_cuda() bytes. Sums each row's tokens in a fixed order, in pieces.
void embedding_backward_cuda(const EmbeddingBackwardArgs& args, void* workspace, void* stream);
int64_t embedding_backward_workspace_cuda(const EmbeddingBackwardArgs& args);

}  // namespace megatron
