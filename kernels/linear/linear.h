// Linear layers: y = x W^T + b, over any number of contracted and of output dimensions, with separate operations for
// the gradients of data, weight and bias.
#pragma once

#include <memory>
#include <string>

#include "program/op_kind.h"
#include "program/trace.h"

namespace megatron {

struct LinearOptions {
  int out_dims = 1;       ///< leading dimensions of the weight, which become the trailing ones of y
  int contract_dims = 1;  ///< trailing dimensions of x and of the weight, summed over
};

/// y[lead..., n...] = sum_k x[lead..., k...] w[n..., k...] + bias[n...]; the bias is optional. All operands have one
/// dtype; sums are kept in fp64 for fp64, else in fp32. Examples: query-key-value projection w [g, q + 2, d, c] with
/// out_dims 3; attention output projection x [s, b, g, q, d], w [c, g, q, d] with contract_dims 3; first layer of a
/// gated MLP w [2, f, c] with out_dims 2. With a bias the contracted dimensions must be whole on every rank (the bias
/// would be added once a rank): use dropout_add's bias after the reduction instead.
Value linear(Trace& trace, Value x, Value w, Value bias = {}, const LinearOptions& options = {});

/// Sum of dy[lead..., n...] over the leading dimensions, in fp32 (fp64): the gradient of a bias of `out_dims`
/// dimensions.
Value bias_gradient(Trace& trace, Value dy, int out_dims);

/// Operands x, w, bias (may be absent); result y.
std::shared_ptr<const OpKind> linear_kind(const LinearOptions& options);
/// Operand dy; result the bias gradient. Accumulates.
std::shared_ptr<const OpKind> bias_gradient_kind(int out_dims);

/// Arguments of the kernels, as matrices: x [rows, in], weight [out, in], y [rows, out].
struct LinearArgs {
  Tensor x, weight, bias, y;
  int64_t rows = 0, in = 0, out = 0;
};
/// dx = dy W (+ dx).
struct LinearDataGradientArgs {
  Tensor dy, weight, dx;
  int64_t rows = 0, in = 0, out = 0;
  bool add = false;
};
/// dW = dy^T x (+ dW); dW is fp32 (fp64).
struct LinearWeightGradientArgs {
  Tensor dy, x, dweight;
  int64_t rows = 0, in = 0, out = 0;
  bool add = false;
};
/// db = sum over rows of dy (+ db); db is fp32 (fp64).
struct BiasGradientArgs {
  Tensor dy, dbias;
  int64_t rows = 0, out = 0;
  bool add = false;
};

class ThreadPool;
/// `workspace` holds fp32 copies of 16-bit operands: linear_workspace_cpu() bytes, unused for fp64 and fp32.
void linear_cpu(const LinearArgs& args, void* workspace, ThreadPool* pool);
void linear_data_gradient_cpu(const LinearDataGradientArgs& args, void* workspace, ThreadPool* pool);
void linear_weight_gradient_cpu(const LinearWeightGradientArgs& args, void* workspace, ThreadPool* pool);
void bias_gradient_cpu(const BiasGradientArgs& args, void* workspace, ThreadPool* pool);

/// Bytes for the first two, for the weight gradient, and for the bias gradient.
int64_t linear_workspace_cpu(DType dtype, int64_t rows, int64_t in, int64_t out);
int64_t weight_gradient_workspace_cpu(DType dtype, int64_t rows, int64_t in, int64_t out);
int64_t bias_gradient_workspace_cpu(DType dtype, int64_t rows, int64_t out);

/// On the GPU, through cuBLASLt; `stream` is a cudaStream_t. `workspace`: kGemmWorkspaceCuda bytes (gemm_cuda.h) for
/// the products, bias_gradient_workspace_cuda() for the bias.
void linear_cuda(const LinearArgs& args, void* workspace, void* stream);
void linear_data_gradient_cuda(const LinearDataGradientArgs& args, void* workspace, void* stream);
void linear_weight_gradient_cuda(const LinearWeightGradientArgs& args, void* workspace, void* stream);
void bias_gradient_cuda(const BiasGradientArgs& args, void* workspace, void* stream);
int64_t bias_gradient_workspace_cuda(DType dtype, int64_t rows, int64_t out);
/// Rows that one partial sum of the bias gradient covers.
int64_t bias_gradient_rows_cuda(int64_t rows);

}  // namespace megatron
