#include "parallel/rank_device.h"

#include <algorithm>
#include <thread>

#include "base/check.h"
#include "base/error.h"
#include "base/log.h"
#include "device/gpu.h"

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
    throw DeviceError(
        "run.device: cuda: this program was built without CUDA; build it where nvcc is (scripts/build.sh), or use "
        "run.device: cpu or auto");
  }
#endif
  return DeviceKind::kCpu;
}

std::unique_ptr<Device> make_device(const RunConfig& run) {
  [[maybe_unused]] const DeviceKind kind = device_kind(run);  // refuses cuda where there is none
#ifdef MEGATRON_HAVE_CUDA
  if (kind == DeviceKind::kCuda) return make_cuda_device(0);
  // A driver without a usable GPU is no plain CPU machine: auto must not hide what is wrong.
  if (run.device == "auto") {
    const CudaFacts machine = cuda_facts();
    if (machine.driver_version > 0) log_warn(machine.failure + "; run.device: auto computes on the CPU");
  }
#endif
  return make_cpu_device();
}

}  // namespace megatron
