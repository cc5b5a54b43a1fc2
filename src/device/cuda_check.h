// Checked CUDA runtime calls, for .cu files and what only they include.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <string>

namespace megatron {

/// Throws DeviceError: what was done, which GPU, the error, and a remedy where there is one (gpu_failure.h).
[[noreturn]] void fail_cuda(cudaError_t error, const std::string& what);
/// Throws DeviceError: `bytes` could not be taken.
[[noreturn]] void fail_cuda_memory(int64_t bytes);

/// Checks the result of a runtime call.
inline void check_cuda(cudaError_t error, const char* what) {
  if (error != cudaSuccess) fail_cuda(error, what);
}

/// Checks the launch just made; `what` names the kernel and its shapes.
inline void check_launch(const char* what) {
  check_cuda(cudaGetLastError(), what);
}

}  // namespace megatron
