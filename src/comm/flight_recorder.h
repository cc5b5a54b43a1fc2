// Every collective of a rank is recorded, so that it can be said where the rank stands (monitor.h asks).
#pragma once

#include <chrono>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "comm/world.h"
#include "program/comm.h"

namespace megatron {

/// The last collectives of one rank, over all its communicators. Any thread may ask at any time.
class FlightRecorder {
 public:
  struct Record {
    std::string comm;       ///< "tp, rank 1 of 4"
    uint64_t sequence = 0;  ///< of the call on its communicator: equal on all its ranks
    std::string call;       ///< "all_reduce(sum) of 12 fp32 (decoder.layers.0.mlp.output)"
    std::string phase;      ///< of the rank, when it called
    double seconds = 0;     ///< since the call began
    bool done = false;      ///< on a GPU: put on its stream
  };

  explicit FlightRecorder(size_t capacity = 64) : capacity_(capacity) {}

  /// What the rank is doing, for people: "iteration 12, forward". Counts as progress.
  void set_phase(const std::string& phase);
  /// Oldest first.
  std::vector<Record> records() const;
  /// One line: the collective that the rank waits in, or the last one it did, and its phase.
  std::string where() const;
  struct Standing {
    uint64_t progress = 0;  ///< collectives begun and ended, and phases set: stands still when the rank does
    bool waits = false;     ///< in a collective
    std::string where;      ///< as where()
  };
  Standing standing() const;
  std::string phase() const;

  /// Used by recorded communicators.
  uint64_t begin(const Comm& comm, uint64_t sequence, const CommCall& call);
  uint64_t begin(const std::string& comm, int rank, int size, uint64_t sequence, const std::string& call);
  void end(uint64_t id);

 private:
  using Clock = std::chrono::steady_clock;
  struct Entry {
    uint64_t id;
    std::string comm, phase;
    int rank, size;
    uint64_t sequence;
    CommCall call;
    std::string text;  ///< instead of the call where it is none, else its subject
    Clock::time_point begun;
    bool done;
  };
  static Record to_record(const Entry& entry);
  uint64_t add(Entry entry);

  mutable std::mutex mutex_;
  const size_t capacity_;
  std::deque<Entry> entries_;
  std::string phase_ = "start";
  uint64_t next_ = 0, progress_ = 0;
};

/// `comm` with every call recorded; what is split from it is recorded too.
std::unique_ptr<Comm> make_recorded_comm(std::unique_ptr<Comm> comm, std::shared_ptr<FlightRecorder> recorder);

/// `world` with every gather recorded; it must outlive the result.
std::unique_ptr<World> make_recorded_world(World& world, std::shared_ptr<FlightRecorder> recorder);

}  // namespace megatron
