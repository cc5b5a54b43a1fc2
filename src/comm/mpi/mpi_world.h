// Ranks started by mpirun, and communicators for their tensors in host memory. Only in builds with MPI.
#pragma once

#include <memory>

#include "comm/launch.h"

namespace megatron {

/// Initialises MPI: once in a process. All communicators must be used by one thread at a time, and be gone before the
/// world.
std::unique_ptr<World> make_mpi_world(const Launch& launch, const WorldOptions& options);

}  // namespace megatron
