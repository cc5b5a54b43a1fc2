// cuDNN's fused attention (flash attention on the tensor cores of Hopper), described through its front end.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "kernels/attention/attention_choice.h"

namespace megatron {

/// Why this process cannot use cuDNN, or "". Opens the library at the first call; needs no GPU.
const std::string& cudnn_problem();

using CudnnPointers = std::array<void*, kCudnnTensors>;

/// Enqueues one call on `stream` (a cudaStream_t). The plan of `call` is made at its first use on a thread and device,
/// which must not be inside a CUDA graph capture, and kept. DeviceError when cuDNN refuses; InternalError when the plan
/// wants more than `workspace_bytes`.
void run_cudnn_attention(const CudnnAttention& call, const CudnnPointers& pointers, void* workspace,
                         int64_t workspace_bytes, void* stream);

/// Both directions as chosen: all parts.
void attention_cudnn(const AttentionChoice& choice, const AttentionArgs& args, void* workspace, void* stream);
void attention_backward_cudnn(const AttentionChoice& choice, const AttentionBackwardArgs& args, void* workspace,
                              void* stream);

}  // namespace megatron
