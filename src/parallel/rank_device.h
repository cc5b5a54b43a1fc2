// The device and the host threads of one rank, from section `run`.
#pragma once

#include <memory>

#include "config/config.h"
#include "device/device.h"

namespace megatron {

/// Threads that run.cpu_threads asks for; 0 means all cores.
int cpu_threads(const RunConfig& run);

/// What run.device names: auto is a GPU where this build and machine have one. DeviceError for cuda in a build without
/// it.
DeviceKind device_kind(const RunConfig& run);

/// The device that run.device names; DeviceError where this build or machine has none.
std::unique_ptr<Device> make_device(const RunConfig& run);

}  // namespace megatron
