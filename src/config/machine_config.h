// Section `machine`: what `megatron plan` reckons the time of a step from.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace megatron {

/// What one kind of GPU and the links between GPUs do: `plan` reckons the time of a step from it. `bench ops` and
/// `bench comm` measure it.
struct MachineConfig {
  std::string device;         ///< "" : there is no profile
  std::string measured;       ///< when and with what, in words
  double copy_bandwidth = 0;  ///< bytes per second, read plus written
  double matrix_flops = 0;    ///< of a large product in 16-bit types
  double launch_seconds = 0;  ///< of an operation with next to nothing to do
  double sustained = 1;       ///< time of a step over that of its operations taken alone
  int64_t gpus_per_node = 8;
  double network_bandwidth = 5e10;       ///< bytes per second and GPU, each way, between nodes
  double network_seconds = 1e-5;         ///< of the smallest message between nodes
  std::vector<std::string> operations;   ///< see train/machine_profile.h
  std::vector<std::string> collectives;  ///< see train/machine_profile.h

  bool operator==(const MachineConfig&) const = default;
};

}  // namespace megatron
