// CUDA versions of both norms: one set of kernels, for LayerNorm with a mean and without for RMSNorm.
#pragma once

#include "kernels/rmsnorm/norm_options.h"
#include "tensor/tensor.h"

namespace megatron {

enum class NormKind { kRms, kLayer };

/// As in rmsnorm.h and layernorm.h; beta and mean belong to LayerNorm alone. Absent tensors are skipped.
struct NormCudaArgs {
  Tensor x, gamma, beta{}, residual, y, sum, rstd, mean{};
};
struct NormBackwardCudaArgs {
  Tensor dy, x, gamma, rstd, mean{}, dsum, dx, dgamma, dbeta{};
  bool add_dx = false, add_dgamma = false, add_dbeta = false;
};

/// Device pointers; `stream` is a cudaStream_t. Only in builds with CUDA.
void norm_cuda(NormKind kind, const NormCudaArgs& args, const NormOptions& options, void* stream);
/// `workspace`: norm_workspace_cuda() bytes.
void norm_backward_cuda(NormKind kind, const NormBackwardCudaArgs& args, const NormOptions& options, void* workspace,
                        void* stream);

/// Bytes of the partial sums of the parameters' gradients; in every build, so that a plan needs no device.
int64_t norm_workspace_cuda(NormKind kind, const Tensor& x, DType gamma);

}  // namespace megatron
