// Dropout (Srivastava et al., JMLR 2014) whose mask is a function of global indices, alone and fused with bias and
// residual.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "program/op_kind.h"
#include "program/trace.h"

namespace megatron {

/// Where the random bits come from (kernels/random/dropout_mask.h). With p == 0 the three values may be absent; modules
/// pass p = 0 outside training.
struct DropoutKey {
  double p = 0.0;  ///< probability of a zero, in [0, 1)
  uint64_t seed = 0;
  std::string name;  ///< module path of the site
  Value step;        ///< int64 scalar
  Value sample;      ///< [b] int64, global sample numbers
  Value position;    ///< [..., b] int32, position within the sample
};

/// x [..., b, c] -> m x / (1 - p), m the mask. x itself when p == 0.
Value dropout(Trace& trace, Value x, const DropoutKey& key);

/// out = residual + dropout(x + bias); x, residual [..., b, c], bias [c] of x's dtype or absent. The result has the
/// residual's dtype. The sum is rounded once.
Value dropout_add(Trace& trace, Value x, Value bias_or_absent, Value residual, const DropoutKey& key);

/// Attributes of the kinds.
struct DropoutOptions {
  double p = 0.0;
  uint64_t seed = 0;
  std::string name;
};
/// Operands x, step, sample, position; result of dtype `out` (x's when not given).
std::shared_ptr<const OpKind> dropout_kind(const DropoutOptions& options, std::optional<DType> out = std::nullopt);
/// Operands x, bias (may be absent), residual, step, sample, position (absent when p == 0).
std::shared_ptr<const OpKind> dropout_add_kind(const DropoutOptions& options);

/// x [s, b, c] contiguous; bias and residual may be absent. `first_channel`: global index of the first local channel.
struct DropoutArgs {
  Tensor x, bias, residual, y;
  Tensor step, sample, position;
  int64_t first_channel = 0;
  DropoutOptions options;
};

class ThreadPool;
void dropout_cpu(const DropoutArgs& args, ThreadPool* pool);

/// Device pointers; `stream` is a cudaStream_t. Only in builds with CUDA.
void dropout_cuda(const DropoutArgs& args, void* stream);

}  // namespace megatron
