// The training run: set-up, the loop of steps, evaluation, checkpoints, and how it ends.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "base/file_io.h"
#include "comm/world.h"
#include "config/load.h"

namespace megatron {

struct TrainOptions {
  std::vector<std::string> arguments;  ///< the command line, for the run folder
  bool finetune = false;               ///< weights from checkpoint.load, everything else from the start
  FileOps* checkpoint_ops = nullptr;   ///< through which checkpoints are written; tests make them fail
};

/// Runs `loaded` to its end or to a stop; kDone or kResumable. Throws Error for everything else. Writes the run folder,
/// including exit_status.json, in every case in which the folder could be made.
ExitCode run_training(const LoadedConfig& loaded, const TrainOptions& options);

/// The same as one of the ranks of `world`, which were started alike (compare_start). Rank 0 writes the run folder and
/// keeps the record; every rank has its own log and exit status in it. All ranks end with the same result. Collective.
ExitCode run_training(const LoadedConfig& loaded, const TrainOptions& options, World& world);

}  // namespace megatron
