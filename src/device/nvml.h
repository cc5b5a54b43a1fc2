// What the driver's management library (libnvidia-ml.so.1) tells of GPUs beside the CUDA runtime. It is loaded when
// asked for, so this works in every build and on machines without it.
#pragma once

#include <cstdint>
#include <string>

namespace megatron {

/// "580.95.05"; empty without a driver.
std::string driver_version();

/// State of one GPU; what the library does not tell is negative.
struct GpuHealth {
  bool known = false;
  int sm_clock_mhz = -1, max_sm_clock_mhz = -1;
  int temperature_celsius = -1;
  int ecc_enabled = -1;          ///< 0, 1
  int64_t ecc_uncorrected = -1;  ///< errors since the driver was loaded
  int active_nvlinks = 0;
  bool slowed_by_hardware = false;  ///< heat or power brake
};

/// Of the GPU at "0000:1b:00.0".
GpuHealth gpu_health(const std::string& pci_bus_id);

}  // namespace megatron
