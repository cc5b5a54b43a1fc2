// The device and the host threads of one rank, from section `run`.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "comm/world.h"
#include "config/config.h"
#include "device/device.h"

namespace megatron {

/// Threads that run.cpu_threads asks for; 0 means all cores, shared among the ranks of this host.
int cpu_threads(const RunConfig& run, int local_size = 1);

/// What a log says where the launcher left a rank fewer processors than its share of the host's; else "". `usable`: by
/// its affinity, `online`: of the host.
std::string binding_warning(const RunConfig& run, int local_size, int usable, int online);

/// What run.device names: auto is a GPU where this build and machine have one. DeviceError for cuda in a build without
/// it.
DeviceKind device_kind(const RunConfig& run);

/// The device that run.device names; DeviceError where this build or machine has none.
std::unique_ptr<Device> make_device(const RunConfig& run);

/// The same for one of many ranks: GPUs go to the ranks of a host in order. A collective call. DeviceError, the same on
/// all ranks: a host has fewer GPUs than ranks, or ranks have different kinds of devices.
std::unique_ptr<Device> make_device(const RunConfig& run, World& world);

/// What one rank knows of the GPUs of its host.
struct GpuView {
  std::string host;
  int local_rank = 0;
  bool wanted = true;             ///< it computes on a GPU
  std::vector<std::string> gpus;  ///< visible ones, by PCI address
};

/// The GPU of `rank`, as an index into what it sees: the one with its local rank's number, or the only one that the
/// launcher shows it. -1 when ranks compute on CPUs. DeviceError as above.
int choose_gpu(const std::vector<GpuView>& ranks, int rank);

}  // namespace megatron
