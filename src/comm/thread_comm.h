// Ranks as threads of one process: how parallel code is tested, and the communicator of a single rank.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "comm/world.h"
#include "program/comm.h"

namespace megatron {

/// Whether a rank of a job of threads has failed, and why. Every wait of every communicator of the job looks at it, so
/// that one failure ends all ranks.
class ThreadJob {
 public:
  explicit ThreadJob(double timeout_seconds = kDefaultTimeoutSeconds) : timeout_seconds_(timeout_seconds) {}
  /// The longest wait for another rank.
  double timeout_seconds() const { return timeout_seconds_; }
  void set_timeout(double seconds) { timeout_seconds_ = seconds; }
  /// The first reason stays.
  void fail(const std::string& reason);
  bool failed() const { return failed_; }
  /// DeviceError with the reason.
  [[noreturn]] void raise() const;

 private:
  std::atomic<double> timeout_seconds_;
  std::atomic<bool> failed_ = false;
  mutable std::mutex mutex_;
  std::string reason_;
};

/// Communicators of `size` ranks that share memory; element r belongs to the thread of rank r. Size 1 never waits.
/// Calls that differ between ranks (operation, type, counts) are refused on all of them with one message; ranks that do
/// not come in time are named, with what the others wait in.
std::vector<std::unique_ptr<Comm>> make_thread_comms(int size, const std::string& name = "world",
                                                     std::shared_ptr<ThreadJob> job = nullptr);

}  // namespace megatron
