#include "device/gpu_id.h"

#include <array>

#include "device/cuda_check.h"

namespace megatron {

std::vector<std::string> visible_gpus() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) return {};
  std::vector<std::string> gpus;
  for (int i = 0; i < count; ++i) {
    std::array<char, 32> address{};
    check_cuda(cudaDeviceGetPCIBusId(address.data(), address.size(), i), "cudaDeviceGetPCIBusId");
    gpus.emplace_back(address.data());
  }
  return gpus;
}

}  // namespace megatron
