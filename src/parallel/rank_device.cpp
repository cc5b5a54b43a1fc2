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

DeviceKind device_kind(const RunConfig& run) {
#ifdef MEGATRON_HAVE_CUDA
  if (run.device == "cuda") return DeviceKind::kCuda;
  if (run.device == "auto" && cuda_device_count() > 0) return DeviceKind::kCuda;
#else
  if (run.device == "cuda") {
    throw DeviceError("run.device: cuda is not available in this build; use run.device: cpu or auto");
  }
#endif
  return DeviceKind::kCpu;
}

std::unique_ptr<Device> make_device(const RunConfig& run) {
#ifdef MEGATRON_HAVE_CUDA
  if (device_kind(run) == DeviceKind::kCuda) return make_cuda_device(0);
#endif
  return device_kind(run) == DeviceKind::kCpu ? make_cpu_device() : nullptr;
}

}  // namespace megatron
