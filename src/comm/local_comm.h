// A communicator through which nothing travels: what a step would take if communication were free.
#pragma once

#include <memory>
#include <string>

#include "comm/world.h"
#include "device/device.h"

namespace megatron {

/// All ranks of `world`; what is split from it has the ranks and sizes of real groups. Every collective becomes copies
/// on this rank's device and the stream of the call: each block of the target takes what this rank has of the source,
/// in place nothing moves. Shapes, streams and the memory traffic of the target stay those of a real step, the values
/// mean nothing. Splits are collective calls of all ranks of the world. `world` and `device` must outlive it.
std::unique_ptr<Comm> make_local_comm(World& world, Device& device, const std::string& name = "world");

}  // namespace megatron
