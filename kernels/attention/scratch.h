// Scratch memory of parallel CPU tasks, cut from the workspace of the plan.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "base/thread_pool.h"

namespace megatron {

constexpr int64_t kScratchAlignment = 64;
constexpr int64_t kMaxScratchSlots = 16;
constexpr int64_t kScratchBudget = int64_t{64} << 20;

/// Tasks that may run at once: as many as fit the budget, one at least. A function of the shapes alone.
inline int64_t scratch_slots(int64_t tasks, int64_t bytes_per_slot) {
  const int64_t fit = kScratchBudget / std::max<int64_t>(bytes_per_slot, 1);
  return std::max<int64_t>(1, std::min({tasks, fit, kMaxScratchSlots}));
}

/// Hands out pieces of one slot. Without memory it only adds up sizes, so that the kernel and its workspace() share one
/// layout function.
class Scratch {
 public:
  explicit Scratch(std::byte* memory = nullptr) : memory_(memory) {}
  template <typename A>
  A* take(int64_t count) {
    A* piece = memory_ == nullptr ? nullptr : reinterpret_cast<A*>(memory_ + used_);
    used_ += round_up(count * static_cast<int64_t>(sizeof(A)), kScratchAlignment);
    return piece;
  }
  int64_t bytes() const { return used_; }

 private:
  std::byte* memory_;
  int64_t used_ = 0;
};

/// Calls body(task, slot memory) for every task. A slot is used by one thread at a time; tasks must be independent of
/// each other and of the slot they get.
template <typename Body>
void for_each_task(ThreadPool& pool, int64_t tasks, void* workspace, int64_t bytes_per_slot, const Body& body) {
  const int64_t slots = scratch_slots(tasks, bytes_per_slot);
  std::atomic<int64_t> next{0};
  pool.parallel_for(slots, 1, [&](int64_t begin, int64_t end) {
    for (int64_t slot = begin; slot < end; ++slot) {
      for (int64_t task = next.fetch_add(1); task < tasks; task = next.fetch_add(1)) {
        body(task, Scratch(static_cast<std::byte*>(workspace) + slot * bytes_per_slot));
      }
    }
  });
}

}  // namespace megatron
