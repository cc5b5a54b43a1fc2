// How this process was started: alone, by mpirun, by Slurm without PMIx, or with RANK, WORLD_SIZE and MASTER_ADDR.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "comm/world.h"

namespace megatron {

using Environment = std::map<std::string, std::string>;
Environment process_environment();

struct Launch {
  enum class Kind { kSingle, kMpi, kTcp };
  Kind kind = Kind::kSingle;
  int rank = 0, size = 1;  ///< kMpi: what the launcher says, -1 and -1 when it says nothing
  int local_rank = -1;     ///< -1: to be found out by comparing hosts
  std::string how;         ///< "one rank", "mpirun", "slurm", "RANK and WORLD_SIZE"
  std::string master;      ///< kTcp: host of rank 0
  int port = 0;            ///< kTcp
};

/// In this order: OpenMPI's or PMIx's variables; RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT; a Slurm step's
/// variables (SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID, SLURM_NODELIST and the SLURM_STEP_ ones; the first node is the
/// master and the port follows from the job id, unless MASTER_ADDR and MASTER_PORT say otherwise). A batch script
/// itself is no step: a program that it starts without srun or mpirun is alone. UsageError: variables that are
/// incomplete or contradict each other.
Launch detect_launch(const Environment& environment);

/// Host names of a Slurm node list: "gpu[01-03,7],login" is gpu01, gpu02, gpu03, gpu7, login. Several brackets in a
/// name expand like nested loops, the last fastest. UsageError when it cannot be read.
std::vector<std::string> expand_node_list(const std::string& list);

/// False in builds without MPI.
bool has_mpi();

/// Finds the other ranks; returns when all are there. UsageError: started for MPI, but built without it. DeviceError: a
/// rank did not come.
std::unique_ptr<World> join_world(const Launch& launch, const WorldOptions& options = {});

}  // namespace megatron
