#include "parallel/rank_device.h"

#include <algorithm>
#include <thread>

#include "base/check.h"
#include "base/error.h"

namespace megatron {

int cpu_threads(const RunConfig& run) {
  if (run.cpu_threads > 0) return narrow<int>(run.cpu_threads);
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

std::unique_ptr<Device> make_device(const RunConfig& run) {
  if (run.device == "cuda") {
    throw DeviceError("run.device: cuda is not available in this build; use run.device: cpu or auto");
  }
  return make_cpu_device();
}

}  // namespace megatron
