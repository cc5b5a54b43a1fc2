// The folder of a run: everything about it in one place.
//
//   resolved.yaml   the configuration with every default            logs/rank-NNNN.log  log of each rank
//   plan.txt        what `megatron plan` prints                     metrics.jsonl       one object per iteration
//   env.txt         versions, machine, environment                  tensorboard/        event files
//   command.txt     one block per start, oldest first               checkpoints/        see the checkpoint room
//   exit_status.json  how the last start ended                      .lock               held while the run lives
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/file_io.h"

namespace megatron {

class RunFolder {
 public:
  /// Makes the folder, starts this rank's log file and removes this rank's exit status of an earlier start. Rank 0 also
  /// takes the lock: UsageError naming host and process when another run holds it.
  RunFolder(std::string dir, int64_t rank);

  const std::string& dir() const { return dir_; }
  int64_t rank() const { return rank_; }
  std::string path(const std::string& name) const { return path_join(dir_, name); }
  std::string metrics_path() const { return path("metrics.jsonl"); }
  std::string log_path() const;
  std::string exit_status_path() const;

  /// Replaces resolved.yaml, plan.txt and env.txt, each atomically, and appends to command.txt. Rank 0 only.
  void describe(const std::string& resolved_yaml, const std::string& plan, const std::string& environment,
                const std::vector<std::string>& arguments) const;

 private:
  std::string dir_;
  int64_t rank_;
  std::optional<FileLock> lock_;
};

/// A command line that a shell reads back as the same words.
std::string shell_quoted(const std::vector<std::string>& arguments);

/// Text of env.txt: `extra` ("megatron version", "BLAS", ...), compiler and build, host, kernel, processor, memory,
/// limits, and the environment variables that change what a run does (MEGATRON_*, OMP_*, NCCL_*, CUDA_*, SLURM_*,
/// ...). Variables whose names look like secrets are left out.
std::string environment_report(const std::vector<std::pair<std::string, std::string>>& extra);

/// True for the variables that environment_report shows.
bool is_reported_variable(const std::string& name);

}  // namespace megatron
