// Conversions between element types, and zeroing of state.
#pragma once

#include <memory>

#include "program/op_kind.h"
#include "program/trace.h"

namespace megatron {

/// The same values in dtype `to` (floating types), rounded to nearest even; x itself when it has that type.
Value cast(Trace& trace, Value x, DType to);

/// Sets all elements of `state` to zero, in place.
void zero(Trace& trace, Value state);

/// Operand x; result of dtype `to`.
std::shared_ptr<const OpKind> cast_kind(DType to);
/// Operand: the state that is changed.
std::shared_ptr<const OpKind> fill_zero_kind();

struct CastArgs {
  Tensor x, y;
};
class ThreadPool;
void cast_cpu(const CastArgs& args, ThreadPool* pool);
void fill_zero_cpu(const Tensor& state, ThreadPool* pool);
/// `stream`: a cudaStream_t.
void cast_cuda(const CastArgs& args, void* stream);
void fill_zero_cuda(const Tensor& state, void* stream);

}  // namespace megatron
