// exit_status.json: how a rank ended. mpirun and batch systems hide exit codes, so each rank leaves its own in a file.
#pragma once

#include <cstdint>
#include <exception>
#include <string>

#include "base/error.h"

namespace megatron {

struct ExitStatus {
  ExitCode code = ExitCode::kDone;
  std::string reason;  ///< one sentence: the error's message, or what asked for the stop
  int64_t rank = 0;
  std::string host;
  std::string phase;      ///< what the run was doing: "setup", "train", "evaluate", "save", "load", ...
  std::string culprit;    ///< what is to blame where it is known: a rank, file, op or signal; else empty
  int64_t iteration = 0;  ///< last complete one
};

/// "done", "usage", "data", "device", "internal", "resumable".
std::string exit_code_name(ExitCode code);

/// Code and reason of an exception: that of an Error, else internal (70).
ExitStatus status_of(const std::exception& error);

/// The object with code, code name, reason, rank, host, phase, culprit, iteration and time (UTC), and a line feed.
std::string to_json(const ExitStatus& status);

/// run_dir/exit_status.json for rank 0, run_dir/logs/exit_status-rank-0007.json for others.
std::string exit_status_path(const std::string& run_dir, int64_t rank);

/// Writes atomically. Never throws, because it is called when something else has gone wrong already: a failure is
/// logged and gives false.
bool write_exit_status(const std::string& path, const ExitStatus& status) noexcept;

}  // namespace megatron
