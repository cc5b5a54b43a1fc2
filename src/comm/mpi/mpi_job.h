// What all MPI communicators of a rank share: how to wait, and what ends the wait.
#pragma once

#include <mpi.h>

#include <functional>
#include <string>
#include <vector>

#include "comm/world.h"

namespace megatron {

/// Throws DeviceError("what: text of MPI") unless `code` is MPI_SUCCESS.
void check_mpi(int code, const std::string& what);

class MpiJob {
 public:
  MpiJob(MPI_Comm control, const WorldOptions& options, std::string label)
      : control_(control), options_(options), label_(std::move(label)) {}

  /// Polls `ready` until it is true, giving the core away in between: there may be more ranks than cores. DeviceError:
  /// a rank failed, or the time is up; `what` describes the wait.
  void wait(const std::function<bool()>& ready, const std::string& what);

  /// Tells the others, once, and gives the message a moment to leave.
  void fail(const std::string& reason) noexcept;
  /// After a failure, when this rank has said what it has to say: waits a little for the others to come as far. The
  /// launcher ends all ranks as soon as one has ended with an error.
  void leave_together() noexcept;
  bool failed() const { return failed_; }
  /// After fail(): has rank 0 said the same? Waits for its word up to half a second.
  bool says_first(const std::string& reason) noexcept;
  void set_timeout(double seconds) { options_.timeout_seconds = seconds; }
  /// Throws when a rank has failed; `what` is what this one was doing.
  void check_alive(const std::string& what);
  MPI_Comm control() const { return control_; }

 private:
  MPI_Comm control_;
  WorldOptions options_;
  std::string label_;
  bool failed_ = false;
  std::string reason_;
};

}  // namespace megatron
