// The global gradient norm and what follows from it: the clipping coefficient, and whether the step is skipped.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "program/op_kind.h"
#include "program/trace.h"

namespace megatron {

/// Sum of the squares of all elements of all gradients, an fp64 scalar, summed in fp64 in a fixed order. All gradients
/// must be sharded over the same mesh axes (on any dimension) and none may be partial: the result is partial over those
/// axes, so the caller makes one call per set of axes, reduces each, and gives all of them to clip_gradients(). Tensors
/// that are stored twice (tied weights of two stages) must be given once. At least one operand.
Value sum_of_squares(Trace& trace, const std::vector<Value>& gradients);

struct ClipResult {
  Value norm;         ///< fp64: sqrt(sum of sums_of_squares) * inverse_scale
  Value coefficient;  ///< fp64: what gradients are multiplied by in the update
  Value skip;         ///< fp64: 1 when the norm is not finite, else 0
};

/// With inverse_scale (fp64 scalar: 1 / loss scale): norm as above, and
/// coefficient = inverse_scale * min(1, clip / (norm + 1e-6)); clip 0 is off. When the norm is not finite, coefficient
/// is 0 and skip 1. `halt` (fp64 scalar state, optional) keeps a skip: once it is not 0 every further step is skipped
/// too, until the host has seen it and writes 0. So steps may be enqueued before the result of the last one is known.
ClipResult clip_gradients(Trace& trace, const std::vector<Value>& sums_of_squares, Value inverse_scale, double clip,
                          Value halt = {});

/// Any number of operands.
std::shared_ptr<const OpKind> sum_of_squares_kind();
/// Operands inverse_scale, halt (when `halts`), sums of squares...; results norm, coefficient, skip.
std::shared_ptr<const OpKind> clip_kind(double clip, bool halts = false);

class ThreadPool;
/// Adds the squares of x to *sum. `workspace`: sum_of_squares_workspace_cpu(x.numel()) bytes.
void sum_of_squares_cpu(const Tensor& x, double* sum, void* workspace, ThreadPool* pool);
int64_t sum_of_squares_workspace_cpu(int64_t count);

/// Writes the sum over all gradients to `sum`; `workspace`: sum_of_squares_workspace_cuda(gradients) bytes of device
/// memory. `stream`: a cudaStream_t.
void sum_of_squares_cuda(std::span<const Tensor> gradients, const Tensor& sum, void* workspace, void* stream);
int64_t sum_of_squares_workspace_cuda(std::span<const Tensor> gradients);

struct ClipTensors {
  Tensor norm, coefficient, skip;  ///< absent ones are not written
  Tensor halt;                     ///< read and written; may be absent
};
void clip_cuda(const Tensor& inverse_scale, std::span<const Tensor> sums, double clip, const ClipTensors& results,
               void* stream);

}  // namespace megatron
