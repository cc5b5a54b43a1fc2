// A fixed pool for data-parallel loops on the CPU.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace megatron {

/// Runs loops over independent index ranges. Results must not depend on how the range is cut: callers cut work in
/// blocks of a fixed size, so that any number of threads gives the same bits.
class ThreadPool {
 public:
  /// `threads` counts the calling thread too; 1 runs everything inline.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const;

  /// Calls body(begin, end) over consecutive blocks of at most `grain` indices that cover [0, count). Blocks run in any
  /// order on any thread; returns when all are done. The first exception is rethrown here. Not re-entrant.
  void parallel_for(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace megatron
