// LayerNorm (Ba, Kiros and Hinton, 2016, arXiv:1607.06450), optionally fused with the residual addition before it.
#pragma once

#include <memory>

#include "kernels/rmsnorm/norm_options.h"
#include "program/op_kind.h"
#include "program/trace.h"

namespace megatron {

/// sum = x + residual (x when absent), y = (sum - mean) / sqrt(variance + epsilon) * gamma_eff + beta over the
/// innermost dimension, with the biased variance. x, residual [..., c] of one dtype; gamma, beta [c]; y has gamma's
/// dtype. The statistics are taken of the rounded sum, in two passes, in fp32 (fp64). x may be a strided view.
NormResult layernorm(Trace& trace, Value x, Value gamma, Value beta, const NormOptions& options, Value residual = {});

/// Operands x, gamma, beta, residual (may be absent); results y, sum, rstd [...], mean [...].
std::shared_ptr<const OpKind> layernorm_kind(const NormOptions& options);

/// Rows are all dimensions but the innermost; absent tensors are skipped.
struct LayerNormArgs {
  Tensor x, gamma, beta, residual, y, sum, rstd, mean;
  NormOptions options;
};
/// Row by row, with x the saved sum, xhat = (x - mean) rstd and g = dy gamma_eff:
/// dx = dsum + rstd (g - mean(g) - xhat mean(g xhat)); dgamma = sum over rows of dy xhat, dbeta of dy (fp32 or fp64).
struct LayerNormBackwardArgs {
  Tensor dy, x, gamma, rstd, mean, dsum, dx, dgamma, dbeta;
  bool add_dx = false, add_dgamma = false, add_dbeta = false;
  NormOptions options;
};

class ThreadPool;
void layernorm_cpu(const LayerNormArgs& args, ThreadPool* pool);
/// `workspace`: norm_gradient_workspace_cpu(x, 2) bytes.
void layernorm_backward_cpu(const LayerNormBackwardArgs& args, void* workspace, ThreadPool* pool);

}  // namespace megatron
