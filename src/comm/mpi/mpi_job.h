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

  /// Tells the others, once, and gives the message a moment to leave. After that MPI is not called any more.
  void fail(const std::string& reason) noexcept;
  bool failed() const { return failed_; }
  /// Throws when a rank has failed.
  void check_alive();
  MPI_Comm control() const { return control_; }

 private:
  MPI_Comm control_;
  WorldOptions options_;
  std::string label_;
  bool failed_ = false;
  std::string reason_;
};

}  // namespace megatron
