// Point-wise activations, and their gated forms.
#pragma once

#include <memory>
#include <string_view>

#include "program/op_kind.h"
#include "program/trace.h"

namespace megatron {

enum class ActivationKind : uint8_t {
  kGeluTanh,     ///< 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), Hendrycks and Gimpel, arXiv:1606.08415
  kGeluErf,      ///< 0.5 x (1 + erf(x / sqrt 2)), the same paper
  kSilu,         ///< x s(x), s the logistic function
  kSquaredRelu,  ///< max(x, 0)^2, So et al., arXiv:2109.08668
  kRelu,         ///< max(x, 0)
  kQuickGelu,    ///< x s(1.702 x)
};
constexpr ActivationKind kAllActivations[] = {ActivationKind::kGeluTanh, ActivationKind::kGeluErf,
                                              ActivationKind::kSilu,     ActivationKind::kSquaredRelu,
                                              ActivationKind::kRelu,     ActivationKind::kQuickGelu};
/// "gelu_tanh", "gelu_erf", "silu", "squared_relu", "relu", "quick_gelu".
std::string_view name_of(ActivationKind kind);

/// y = act(x), any shape.
Value activation(Trace& trace, Value x, ActivationKind kind);

/// x [..., 2, f] -> y [..., f]: y = act(x[..., 0, :]) * x[..., 1, :] (Shazeer, arXiv:2002.05202). SwiGLU is silu, GEGLU
/// either gelu, ReGLU relu.
Value gated_activation(Trace& trace, Value x, ActivationKind kind);

/// Operand x; result y.
std::shared_ptr<const OpKind> activation_kind(ActivationKind kind);
std::shared_ptr<const OpKind> gated_activation_kind(ActivationKind kind);

/// Contiguous tensors. Backward: dx = dy act'(x).
struct ActivationArgs {
  Tensor x, y;
  ActivationKind kind;
};
struct ActivationBackwardArgs {
  Tensor dy, x, dx;
  ActivationKind kind;
};
/// Rows of x are [2, f]. Backward: dx[0] = dy x[1] act'(x[0]), dx[1] = dy act(x[0]).
struct GatedActivationArgs {
  Tensor x, y;
  ActivationKind kind;
};
struct GatedActivationBackwardArgs {
  Tensor dy, x, dx;
  ActivationKind kind;
};

class ThreadPool;
void activation_cpu(const ActivationArgs& args, ThreadPool* pool);
void activation_backward_cpu(const ActivationBackwardArgs& args, ThreadPool* pool);
void gated_activation_cpu(const GatedActivationArgs& args, ThreadPool* pool);
void gated_activation_backward_cpu(const GatedActivationBackwardArgs& args, ThreadPool* pool);

/// Device pointers; `stream` is a cudaStream_t. Only in builds with CUDA.
void activation_cuda(const ActivationArgs& args, void* stream);
void activation_backward_cuda(const ActivationBackwardArgs& args, void* stream);
void gated_activation_cuda(const GatedActivationArgs& args, void* stream);
void gated_activation_backward_cuda(const GatedActivationBackwardArgs& args, void* stream);

}  // namespace megatron
