// Ranks that find each other over TCP, where there is no MPI: rank 0 listens, the others connect. It carries the few
// bytes of the start (NCCL's ids, what ranks were started with); tensors in host memory need MPI.
#pragma once

#include <memory>

#include "comm/launch.h"

namespace megatron {

/// UsageError: ranks disagree about the size of the world, or two have one rank. DeviceError, on every rank that can be
/// told: a rank did not come in time (named).
std::unique_ptr<World> make_tcp_world(const Launch& launch, const WorldOptions& options);

}  // namespace megatron
