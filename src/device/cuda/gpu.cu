// Facts about the GPUs, and errors of the runtime as text.
#include "device/gpu.h"

#include <cstdlib>

#include "base/error.h"
#include "device/cuda_check.h"
#include "device/device.h"

namespace megatron {
namespace {

static_assert(cuda_status::kOutOfMemory == cudaErrorMemoryAllocation);
static_assert(cuda_status::kStubLibrary == cudaErrorStubLibrary);
static_assert(cuda_status::kInsufficientDriver == cudaErrorInsufficientDriver);
static_assert(cuda_status::kDevicesUnavailable == cudaErrorDevicesUnavailable);
static_assert(cuda_status::kInvalidFunction == cudaErrorInvalidDeviceFunction);
static_assert(cuda_status::kNoDevice == cudaErrorNoDevice);
static_assert(cuda_status::kInvalidDevice == cudaErrorInvalidDevice);
static_assert(cuda_status::kNoKernelImage == cudaErrorNoKernelImageForDevice);
static_assert(cuda_status::kUncorrectableMemory == cudaErrorECCUncorrectable);
static_assert(cuda_status::kIllegalAddress == cudaErrorIllegalAddress);
static_assert(cuda_status::kMisalignedAddress == cudaErrorMisalignedAddress);
static_assert(cuda_status::kLaunchFailure == cudaErrorLaunchFailure);
static_assert(cuda_status::kSystemNotReady == cudaErrorSystemNotReady);
static_assert(cuda_status::kDriverMismatch == cudaErrorSystemDriverMismatch);
static_assert(static_cast<int>(ComputeMode::kProhibited) == cudaComputeModeProhibited);
static_assert(static_cast<int>(ComputeMode::kExclusiveProcess) == cudaComputeModeExclusiveProcess);

/// Asked for its attributes: whether this build has code for a GPU.
__global__ void probe_kernel() {}

CudaStatus status_of(cudaError_t error) {
  return {static_cast<int>(error), cudaGetErrorName(error), cudaGetErrorString(error)};
}

/// nvcc tells the architectures that it compiles for: 900 is 9.0.
std::string built_architectures() {
  std::string text;
  for (const int arch : {__CUDA_ARCH_LIST__}) {
    text += (text.empty() ? "" : ", ") + std::to_string(arch / 100) + "." + std::to_string(arch % 100 / 10);
  }
  return text;
}

/// What can be known before a GPU is chosen.
GpuFacts software_facts() {
  GpuFacts facts;
  if (cudaDriverGetVersion(&facts.driver_version) != cudaSuccess) facts.driver_version = 0;
  if (cudaRuntimeGetVersion(&facts.runtime_version) != cudaSuccess) facts.runtime_version = CUDART_VERSION;
  if (cudaGetDeviceCount(&facts.count) != cudaSuccess) facts.count = 0;
  facts.architectures = built_architectures();
  if (const char* visible = std::getenv("CUDA_VISIBLE_DEVICES")) {
    facts.visible = visible;
    facts.visible_set = true;
  }
  return facts;
}

/// Facts of GPU `index`; without its memory, which would open it.
GpuFacts facts_of(int index) {
  GpuFacts facts = software_facts();
  facts.index = index;
  cudaDeviceProp properties{};
  if (cudaGetDeviceProperties(&properties, index) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    return facts;
  }
  facts.name = properties.name;
  facts.major = properties.major;
  facts.minor = properties.minor;
  facts.total_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  char bus[32] = {};
  if (cudaDeviceGetPCIBusId(bus, sizeof bus, index) == cudaSuccess) facts.pci_bus_id = bus;
  int mode = 0;
  if (cudaDeviceGetAttribute(&mode, cudaDevAttrComputeMode, index) == cudaSuccess) {
    facts.mode = static_cast<ComputeMode>(mode);
  }
  return facts;
}

/// Facts of the current GPU; a failure of these calls must not hide the one that is reported.
GpuFacts current_facts() {
  int index = 0;
  if (cudaGetDevice(&index) != cudaSuccess) index = 0;
  GpuFacts facts = facts_of(index);
  size_t free = 0, total = 0;
  if (facts.count > 0 && cudaMemGetInfo(&free, &total) == cudaSuccess) {
    facts.free_bytes = static_cast<int64_t>(free);
    facts.total_bytes = static_cast<int64_t>(total);
  }
  return facts;
}

}  // namespace

void fail_cuda(cudaError_t error, const std::string& what) {
  throw DeviceError(describe_cuda_failure(status_of(error), what, current_facts()));
}

void fail_cuda_memory(int64_t bytes) {
  throw DeviceError(describe_out_of_memory(bytes, current_facts()));
}

CudaFacts cuda_facts() {
  const GpuFacts software = software_facts();
  CudaFacts facts;
  facts.driver_version = software.driver_version;
  facts.runtime_version = software.runtime_version;
  facts.architectures = software.architectures;
  int count = 0;
  cudaError_t found = cudaGetDeviceCount(&count);
  if (found == cudaSuccess && count == 0) found = cudaErrorNoDevice;
  if (found != cudaSuccess) {
    facts.failure = describe_cuda_failure(status_of(found), "run.device: cuda", software);
    return facts;
  }
  for (int index = 0; index < count; ++index) facts.gpus.push_back(facts_of(index));
  return facts;
}

std::string open_gpu(GpuFacts& facts) {
  const auto failure = [&](cudaError_t error) {
    static_cast<void>(cudaGetLastError());  // forget it: the next GPU is asked afresh
    return describe_cuda_failure(status_of(error), "run.device: cuda", facts);
  };
  if (facts.index >= facts.count) return failure(cudaErrorInvalidDevice);
  cudaError_t error = cudaSetDevice(facts.index);
  if (error == cudaSuccess) error = cudaFree(nullptr);  // makes the context
  if (error != cudaSuccess) return failure(error);
  cudaFuncAttributes attributes{};
  error = cudaFuncGetAttributes(&attributes, probe_kernel);
  if (error != cudaSuccess) return failure(error);
  size_t free = 0, total = 0;
  error = cudaMemGetInfo(&free, &total);
  if (error != cudaSuccess) return failure(error);
  facts.free_bytes = static_cast<int64_t>(free);
  facts.total_bytes = static_cast<int64_t>(total);
  return {};
}

GpuFacts require_gpu(int index) {
  const CudaFacts machine = cuda_facts();
  if (!machine.failure.empty()) throw DeviceError(machine.failure);
  GpuFacts facts = facts_of(index);
  const std::string failure = open_gpu(facts);
  if (!failure.empty()) throw DeviceError(failure);
  return facts;
}

PeerLink peer_link(int from, int to) {
  const auto attribute = [&](cudaDeviceP2PAttr which) {
    int value = 0;
    if (cudaDeviceGetP2PAttribute(&value, which, from, to) == cudaSuccess) return value;
    static_cast<void>(cudaGetLastError());
    return 0;
  };
  PeerLink link;
  int access = 0;
  link.access = cudaDeviceCanAccessPeer(&access, from, to) == cudaSuccess && access != 0;
  link.native_atomics = attribute(cudaDevP2PAttrNativeAtomicSupported) != 0;
  link.performance_rank = attribute(cudaDevP2PAttrPerformanceRank);
  return link;
}

int cuda_device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

}  // namespace megatron
