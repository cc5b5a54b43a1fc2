// A copy of the state in host memory, taken while training goes on, so that a save can be written in the background.
#pragma once

#include <memory>
#include <vector>

#include "base/thread_pool.h"
#include "checkpoint/shard_writer.h"
#include "device/device.h"

namespace megatron {

/// Host memory for this rank's share of a checkpoint, taken once. It is page-locked for a GPU, which copies on a stream
/// of its own beside the forward and backward passes; on the CPU the copy is made when take() returns.
class StateSnapshot {
 public:
  /// DeviceError with a remedy when the host has not `bytes` left.
  StateSnapshot(Device& device, int64_t bytes);

  /// Bytes that the sources need.
  static int64_t size(const std::vector<TensorSource>& sources);

  /// Starts copying. Work that was given to the device before is waited for there; from now until done() was reached
  /// nothing may change the sources. Returns sources that view the copy, for use after done(); the copy before must not
  /// be in use any more.
  std::vector<TensorSource> take(const std::vector<TensorSource>& sources, ThreadPool& pool);

  /// Reached when the copy is complete.
  Event& done() { return *done_; }

 private:
  Device& device_;
  Buffer memory_;
  std::unique_ptr<Event> before_, done_;
};

}  // namespace megatron
