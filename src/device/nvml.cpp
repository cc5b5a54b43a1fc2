#include "device/nvml.h"

#include <dlfcn.h>

#include <array>

namespace megatron {
namespace {

// The few declarations of the library's stable interface that are used here.
using Handle = void*;
constexpr unsigned kSmClock = 1, kGpuTemperature = 0, kUncorrectedErrors = 1, kSinceDriverStart = 0, kMaxLinks = 18;
constexpr unsigned long long kHardwareSlowdown = 0x8, kHardwareThermal = 0x40, kHardwarePowerBrake = 0x80;

/// The library, initialised; closed with its owner.
class Nvml {
 public:
  Nvml() : library_(::dlopen("libnvidia-ml.so.1", RTLD_LAZY | RTLD_LOCAL)) {
    ready_ = library_ != nullptr && call<int()>("nvmlInit_v2") == 0;
  }
  ~Nvml() {
    if (ready_) call<int()>("nvmlShutdown");
    if (library_ != nullptr) ::dlclose(library_);
  }
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  bool ready() const { return ready_; }

  /// Calls a function by name; -1 when the library does not have it. 0 is success.
  template <typename Function, typename... Arguments>
  int call(const char* name, Arguments... arguments) const {
    auto* function = reinterpret_cast<Function*>(::dlsym(library_, name));
    return function != nullptr ? function(arguments...) : -1;
  }

 private:
  void* library_;
  bool ready_ = false;
};

/// A number that a function of (handle, selector..., unsigned*) gives; -1 when it does not.
template <typename... Selectors>
int number(const Nvml& nvml, const char* name, Handle gpu, Selectors... selectors) {
  unsigned value = 0;
  if (nvml.call<int(Handle, Selectors..., unsigned*)>(name, gpu, selectors..., &value) != 0) return -1;
  return static_cast<int>(value);
}

}  // namespace

std::string driver_version() {
  const Nvml nvml;
  std::array<char, 96> text{};
  if (!nvml.ready()) return {};
  if (nvml.call<int(char*, unsigned)>("nvmlSystemGetDriverVersion", text.data(), unsigned{96}) != 0) return {};
  return text.data();
}

GpuHealth gpu_health(const std::string& pci_bus_id) {
  GpuHealth health;
  const Nvml nvml;
  Handle gpu = nullptr;
  if (!nvml.ready()) return health;
  if (nvml.call<int(const char*, Handle*)>("nvmlDeviceGetHandleByPciBusId_v2", pci_bus_id.c_str(), &gpu) != 0) {
    return health;
  }
  health.known = true;
  health.sm_clock_mhz = number(nvml, "nvmlDeviceGetClockInfo", gpu, kSmClock);
  health.max_sm_clock_mhz = number(nvml, "nvmlDeviceGetMaxClockInfo", gpu, kSmClock);
  health.temperature_celsius = number(nvml, "nvmlDeviceGetTemperature", gpu, kGpuTemperature);
  unsigned current = 0, pending = 0;
  if (nvml.call<int(Handle, unsigned*, unsigned*)>("nvmlDeviceGetEccMode", gpu, &current, &pending) == 0) {
    health.ecc_enabled = static_cast<int>(current);
  }
  unsigned long long count = 0;
  if (nvml.call<int(Handle, unsigned, unsigned, unsigned long long*)>(
          "nvmlDeviceGetTotalEccErrors", gpu, kUncorrectedErrors, kSinceDriverStart, &count) == 0) {
    health.ecc_uncorrected = static_cast<int64_t>(count);
  }
  for (unsigned link = 0; link < kMaxLinks; ++link) {
    if (number(nvml, "nvmlDeviceGetNvLinkState", gpu, link) == 1) ++health.active_nvlinks;
  }
  unsigned long long reasons = 0;
  if (nvml.call<int(Handle, unsigned long long*)>("nvmlDeviceGetCurrentClocksThrottleReasons", gpu, &reasons) == 0) {
    health.slowed_by_hardware = (reasons & (kHardwareSlowdown | kHardwareThermal | kHardwarePowerBrake)) != 0;
  }
  return health;
}

}  // namespace megatron
