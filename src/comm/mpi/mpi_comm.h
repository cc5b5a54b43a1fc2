// Collectives over MPI for tensors in host memory. Every one is a round or two of messages between pairs of ranks, so
// that sums run in rank order and one loop does all the waiting.
#pragma once

#include <memory>

#include "comm/mpi/mpi_job.h"

namespace megatron {

/// Takes over `comm`.
std::unique_ptr<Comm> make_mpi_comm(std::shared_ptr<MpiJob> job, MPI_Comm comm, const std::string& name);

}  // namespace megatron
