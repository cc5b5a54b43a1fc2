// Time on a GPU, by events of its stream.
#pragma once

#include <functional>
#include <vector>

#include "device/device.h"

namespace megatron {

/// Measures what is launched on a CUDA device's stream. Before every run memory larger than the L2 cache is read, so
/// that runs begin with a cache that holds nothing of theirs and nothing unwritten, and the host is ahead of the
/// device: launch latency is not part of the time as long as launching takes the host less than the reading takes
/// (about 0.1 ms).
class StreamTimer {
 public:
  explicit StreamTimer(Device& device);

  /// Seconds of each of `repeats` runs of `launch`, which may only enqueue work. Waits for all of them. `before`, where
  /// it is given, is enqueued before each run instead of the reading.
  std::vector<double> measure(int repeats, const std::function<void()>& launch,
                              const std::function<void()>& before = {});

 private:
  void flush();

  Device& device_;
  Buffer flushed_;
};

}  // namespace megatron
