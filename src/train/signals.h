// When a run has to stop early, and how it learns that from outside.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace megatron {

/// In the order of importance: where ranks differ, the greatest wins (a MAX all-reduce of the number).
enum class StopReason : int {
  kGoOn = 0,
  kExitInterval = 1,  ///< run.exit_interval divides the iteration
  kExitDuration = 2,  ///< run.exit_duration_in_mins is over
  kSignal = 3,        ///< SIGTERM, SIGINT or SIGUSR1
};

/// The answer to "go on?". A stop means: save a checkpoint unless this iteration has just been saved, exit with 75.
struct StopRequest {
  StopReason reason = StopReason::kGoOn;
  int signal = 0;  ///< with kSignal on the rank that received it

  bool stop() const { return reason != StopReason::kGoOn; }
  /// "SIGUSR1", "run.exit_duration_in_mins: 60 is over", ... for messages and exit_status.json.
  std::string text() const;
};

/// "SIGTERM", "signal 99".
std::string signal_name(int signal);

/// The limits of `run.`.
struct StopLimits {
  std::optional<int64_t> exit_interval;
  std::optional<double> exit_duration_in_mins;  ///< since the start of the process
};

/// Decision after `iteration` (a pure function): a signal first, then the duration, then the interval.
StopRequest stop_request(const StopLimits& limits, int64_t iteration, double elapsed_seconds, int signal);

/// Handles SIGTERM, SIGINT and SIGUSR1 while it lives (one at a time in a process) and gives back the earlier handlers
/// afterwards. The first of these signals is remembered and nothing else happens: the trainer asks after each step. A
/// second SIGINT ends the process at once with code 75, as the newest complete checkpoint is intact; it first writes
/// `abort_report` to `abort_path` (exit_status.json), with async-signal-safe calls only. SIGPIPE is ignored, so that a
/// closed console does not end a run.
class SignalGuard {
 public:
  explicit SignalGuard(const std::string& abort_path = "", const std::string& abort_report = "");
  ~SignalGuard();
  SignalGuard(const SignalGuard&) = delete;
  SignalGuard& operator=(const SignalGuard&) = delete;

  /// The first stop signal received so far, 0 if none.
  int received() const;
};

}  // namespace megatron
