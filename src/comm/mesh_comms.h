// One communicator per mesh axis.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "comm/flight_recorder.h"
#include "comm/world.h"
#include "device/device.h"
#include "tensor/placement.h"

namespace megatron {

/// With an axis pp there are two more: a second one of the same ranks, for what goes backward, and that of the first
/// and the last stage (the other ranks are alone in theirs).
inline constexpr char kPipelineBackward[] = "pp-backward", kPipelineEnds[] = "pp-ends";

/// Whether collectives carry data, or are copies on each rank (local_comm.h).
enum class Traffic : uint8_t { kReal, kLocal };

/// Communicators of one rank. Those by axis are what Executor::Options::comms takes.
struct MeshComms {
  std::unique_ptr<Comm> owned_world;                     ///< on GPUs, and without traffic; on the CPU the world's own
  Comm* world = nullptr;                                 ///< all ranks
  std::map<std::string, std::unique_ptr<Comm>> by_name;  ///< by axis, and the two above

  /// nullptr for an axis of one rank.
  Comm* find(const std::string& name) const;
  /// Those of the axes, and kPipelineEnds.
  std::map<std::string, Comm*> axes(const Mesh& mesh) const;
};

/// `mesh` is this rank's, with the axes of more than one rank, first axis fastest: the product of their sizes is the
/// world's size, and the coordinates are those of the rank. A collective call. `device` decides between the
/// world's host communicator and NCCL. With a recorder every call of the axes' communicators is recorded.
MeshComms make_mesh_comms(World& world, const Mesh& mesh, Device& device,
                          std::shared_ptr<FlightRecorder> recorder = nullptr, Traffic traffic = Traffic::kReal);

/// Ranks of this rank's group along `axes` (names), in the group's order.
std::vector<int> group_of(const Mesh& mesh, const std::vector<std::string>& axes);

/// A communicator of all ranks for tensors on `device`. DeviceError: no transport for it.
std::unique_ptr<Comm> make_nccl_comm(World& world, const std::string& name);

}  // namespace megatron
