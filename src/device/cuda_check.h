// Checked CUDA runtime calls, for .cu files and what only they include.
#pragma once

#include <cuda_runtime.h>

#include <string>

namespace megatron {

/// Throws DeviceError("what: CUDA error name: text").
[[noreturn]] void fail_cuda(cudaError_t error, const std::string& what);

/// Checks the result of a runtime call.
inline void check_cuda(cudaError_t error, const char* what) {
  if (error != cudaSuccess) fail_cuda(error, what);
}

/// Checks the launch just made; `what` names the kernel and its shapes.
inline void check_launch(const char* what) {
  check_cuda(cudaGetLastError(), what);
}

}  // namespace megatron
