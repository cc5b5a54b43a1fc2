// Picks one position of every sample, such as the last token of a prompt.
#pragma once

#include <memory>

#include "program/op_kind.h"
#include "program/trace.h"

namespace megatron {

class ThreadPool;

/// y[b,:] = x[index[b], b, :]. x [s, b, c] (s whole on every rank), index [b] int32 in [0, s), else InternalError.
/// Gradient: dx is zero but for the picked rows.
Value gather_rows(Trace& trace, Value x, Value index);

/// Operands x, index; result y.
std::shared_ptr<const OpKind> gather_rows_kind();
/// Operands dy, index; result dx [rows, b, c].
std::shared_ptr<const OpKind> scatter_rows_kind(int64_t rows);

struct GatherRowsArgs {
  Tensor whole, picked, index;  ///< [s, b, c], [b, c], [b]
  bool add = false;             ///< scatter: add to `whole` instead of overwriting it
};

void gather_rows_cpu(const GatherRowsArgs& args);
void scatter_rows_cpu(const GatherRowsArgs& args);

/// Device pointers; `stream` is a cudaStream_t. Only in builds with CUDA. An index outside the rows stops the GPU with
/// a message: the run ends with a DeviceError.
void gather_rows_cuda(const GatherRowsArgs& args, void* stream);
void scatter_rows_cuda(const GatherRowsArgs& args, void* stream);

}  // namespace megatron
