// RMSNorm (Zhang and Sennrich, 2019, arXiv:1910.07467), optionally fused with the residual addition before it.
#pragma once

#include <memory>

#include "kernels/rmsnorm/norm_options.h"
#include "program/op_kind.h"
#include "program/trace.h"

namespace megatron {

/// sum = x + residual (x when absent), y = sum / sqrt(mean(sum^2) + epsilon) * gamma_eff over the innermost dimension.
/// x, residual [..., c] of one dtype; gamma [c]; y has gamma's dtype, so a fp32 residual stream gives 16-bit y. The
/// statistics are taken of the rounded sum, in fp32 (fp64). x may be a strided view (query and key norms).
NormResult rmsnorm(Trace& trace, Value x, Value gamma, const NormOptions& options, Value residual = {});

/// Operands x, gamma, residual (may be absent); results y, sum, rstd [...].
std::shared_ptr<const OpKind> rmsnorm_kind(const NormOptions& options);

/// Rows are all dimensions but the innermost; absent tensors are skipped.
struct RmsNormArgs {
  Tensor x, gamma, residual, y, sum, rstd;
  NormOptions options;
};
/// Row by row, with x the saved sum, xhat = x rstd and g = dy gamma_eff:
/// dx = dsum + rstd (g - xhat mean(g xhat)); dgamma = sum over rows of dy xhat (fp32 or fp64).
struct RmsNormBackwardArgs {
  Tensor dy, x, gamma, rstd, dsum, dx, dgamma;
  bool add_dx = false, add_dgamma = false;
  NormOptions options;
};

class ThreadPool;
void rmsnorm_cpu(const RmsNormArgs& args, ThreadPool* pool);
/// `workspace`: norm_gradient_workspace_cpu(x, 1) bytes.
void rmsnorm_backward_cpu(const RmsNormBackwardArgs& args, void* workspace, ThreadPool* pool);

/// Bytes of the partial sums of `parameters` parameter gradients (gamma, and beta of LayerNorm).
int64_t norm_gradient_workspace_cpu(const Tensor& x, int parameters);

}  // namespace megatron
