// What a person is told when a GPU cannot be used: pure text from a CUDA status and the facts at hand, testable without
// a GPU.
#pragma once

#include <cstdint>
#include <string>

namespace megatron {

/// Status codes of the CUDA runtime that have a remedy; the numbers are part of its binary interface.
namespace cuda_status {
inline constexpr int kOutOfMemory = 2;            // cudaErrorMemoryAllocation
inline constexpr int kStubLibrary = 34;           // cudaErrorStubLibrary
inline constexpr int kInsufficientDriver = 35;    // cudaErrorInsufficientDriver
inline constexpr int kDevicesUnavailable = 46;    // cudaErrorDevicesUnavailable
inline constexpr int kInvalidFunction = 98;       // cudaErrorInvalidDeviceFunction
inline constexpr int kNoDevice = 100;             // cudaErrorNoDevice
inline constexpr int kInvalidDevice = 101;        // cudaErrorInvalidDevice
inline constexpr int kNoKernelImage = 209;        // cudaErrorNoKernelImageForDevice
inline constexpr int kUncorrectableMemory = 214;  // cudaErrorECCUncorrectable
inline constexpr int kIllegalAddress = 700;       // cudaErrorIllegalAddress
inline constexpr int kMisalignedAddress = 716;    // cudaErrorMisalignedAddress
inline constexpr int kLaunchFailure = 719;        // cudaErrorLaunchFailure
inline constexpr int kSystemNotReady = 802;       // cudaErrorSystemNotReady
inline constexpr int kDriverMismatch = 803;       // cudaErrorSystemDriverMismatch
}  // namespace cuda_status

/// Whom a GPU serves (cudaComputeMode).
enum class ComputeMode : uint8_t { kShared = 0, kProhibited = 2, kExclusiveProcess = 3 };

/// One GPU as this process sees it, and the software beneath; what is not known stays 0 or empty.
struct GpuFacts {
  int index = 0;             ///< among the visible GPUs
  int count = 0;             ///< visible GPUs
  std::string name;          ///< "NVIDIA H100 80GB HBM3"
  int major = 0, minor = 0;  ///< compute capability
  int64_t total_bytes = 0, free_bytes = 0;
  ComputeMode mode = ComputeMode::kShared;
  int driver_version = 0;     ///< newest CUDA that the driver serves, 1000 * major + 10 * minor; 0: no driver
  int runtime_version = 0;    ///< CUDA of this build, likewise
  std::string architectures;  ///< compute capabilities that this build has code for: "9.0"
  std::string visible;        ///< CUDA_VISIBLE_DEVICES, when set
  bool visible_set = false;
  std::string pci_bus_id;  ///< "0000:1b:00.0"
};

struct CudaStatus {
  int code = 0;
  std::string name, text;  ///< cudaGetErrorName, cudaGetErrorString
};

/// "13.0" of 13000; "none" of 0.
std::string cuda_version_text(int version);

/// One message: which GPU, what is wrong, what to do. `what` says what was being done.
std::string describe_cuda_failure(const CudaStatus& status, const std::string& what, const GpuFacts& facts);

/// Not enough memory for one buffer of `bytes`.
std::string describe_out_of_memory(int64_t bytes, const GpuFacts& facts);

}  // namespace megatron
