// What to change when a training run does not fit into its device's memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "device/device.h"
#include "train/programs.h"

namespace megatron {

/// One part of the plan's memory.
struct MemoryEntry {
  std::string what;
  int64_t bytes = 0;
};

/// All parts of a plan, largest first; their sum is MemoryReport::allocated().
std::vector<MemoryEntry> memory_entries(const TrainPrograms& programs);

struct MemoryAdviceOptions {
  std::string device;              ///< Device::description()
  int64_t free_bytes = 0;          ///< what the device can give
  int64_t data_parallel_size = 1;  ///< ranks that could share the optimizer's state
};

/// The three largest entries, and what to change: for each setting that would help, the bytes that it saves, found by
/// planning the run again with it, and whether the run then fits. Takes as long as a handful of plans.
std::string memory_advice(const Config& config, const TrainPrograms& programs, const ParallelContext& parallel,
                          const MemoryAdviceOptions& options);

/// DeviceError with memory_advice() when the plan needs more than the device has free; asked before the first
/// allocation.
void require_memory(const Config& config, const TrainPrograms& programs, const ParallelContext& parallel,
                    const Device& device, int64_t data_parallel_size = 1);

}  // namespace megatron
