// No hang without a name: every collective of a rank is recorded, and a watchdog says where the rank stands when
// nothing moves any more.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "program/comm.h"

namespace megatron {

/// The last collectives of one rank, over all its communicators. Any thread may ask at any time.
class FlightRecorder {
 public:
  struct Record {
    std::string comm;       ///< "tp, rank 1 of 4"
    uint64_t sequence = 0;  ///< of the call on its communicator: equal on all its ranks
    std::string call;       ///< "all_reduce(sum) of 12 fp32"
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
  /// Collectives begun and ended, and phases set: a number that stands still when the rank does.
  uint64_t progress() const;

  /// Used by recorded communicators.
  uint64_t begin(const Comm& comm, uint64_t sequence, const CommCall& call);
  void end(uint64_t id);

 private:
  using Clock = std::chrono::steady_clock;
  struct Entry {
    uint64_t id;
    std::string comm, phase;
    int rank, size;
    uint64_t sequence;
    CommCall call;
    Clock::time_point begun;
    bool done;
  };
  static Record to_record(const Entry& entry);

  mutable std::mutex mutex_;
  const size_t capacity_;
  std::deque<Entry> entries_;
  std::string phase_ = "start";
  uint64_t next_ = 0, progress_ = 0;
};

/// `comm` with every call recorded; what is split from it is recorded too.
std::unique_ptr<Comm> make_recorded_comm(std::unique_ptr<Comm> comm, std::shared_ptr<FlightRecorder> recorder);

/// Looks at a recorder now and then; calls `expire` once, from its own thread, when there was no progress for
/// `seconds`.
class Watchdog {
 public:
  /// `expire` gets the report of this rank.
  using Expire = std::function<void(const std::string& report)>;
  Watchdog(std::shared_ptr<const FlightRecorder> recorder, std::string label, double seconds, Expire expire);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  /// From now on; the first step of a run, for instance, may take longer than the others.
  void set_seconds(double seconds);

 private:
  void watch();

  std::shared_ptr<const FlightRecorder> recorder_;
  std::string label_;
  Expire expire_;
  std::mutex mutex_;
  std::condition_variable wake_;
  double seconds_;
  bool stop_ = false;
  std::thread thread_;
};

/// What a run does then: prints the report and the last records to standard error, gives the other ranks a few seconds
/// to print theirs, and ends the process with the exit code of DeviceError. The launcher ends the other ranks.
Watchdog::Expire print_and_exit(std::shared_ptr<const FlightRecorder> recorder, double grace_seconds = 5);

}  // namespace megatron
