// No hang without a name: the ranks of a job watch each other from threads of their own, over TCP connections to rank
// 0, whatever their main threads wait in. A rank that dies, fails or does not move any more ends all others, and every
// one of them learns which rank it was.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "comm/flight_recorder.h"
#include "comm/world.h"

namespace megatron {

/// Why a job ends.
struct Verdict {
  int rank = -1;        ///< the culprit; -1 where all ranks wait for each other
  std::string culprit;  ///< "rank 3 (node07)"; "" as above
  std::string text;     ///< what happened, then a line for every rank that says where it stands
  bool failed = false;  ///< it told its error itself: the main threads of the others may hear of it too
};

/// What rank 0 knows of a rank.
struct RankState {
  std::string label;      ///< "rank 3 (node07)"
  double silent = 0;      ///< seconds since the last sign of life of its process
  double stood = 0;       ///< seconds since its last progress, as far as is known
  bool waits = false;     ///< in a collective
  std::string where;      ///< FlightRecorder::where()
  bool has_left = false;  ///< its work is done; it is not judged
};

/// Nothing while every rank has moved within `seconds`. Else the culprit is the rank that is silent, or else the one
/// that stands outside of collectives, the longest; none when all ranks wait in collectives. A process counts as silent
/// after `patience` seconds without a sign of life.
std::optional<Verdict> judge_standstill(const std::vector<RankState>& ranks, double seconds, double patience);

class Monitor {
 public:
  /// Called once, from the monitor's thread, when the job has to end. It does not return in a real run.
  using End = std::function<void(const Verdict&)>;

  /// A collective call. `seconds`: how long a rank may stand. A rank that cannot reach rank 0 over TCP is not watched,
  /// which rank 0 logs as a warning.
  Monitor(World& world, std::shared_ptr<const FlightRecorder> recorder, double seconds, End end);
  /// Takes leave of the others; after an exception it is a failure.
  ~Monitor();
  Monitor(const Monitor&) = delete;
  Monitor& operator=(const Monitor&) = delete;

  /// From now on; that of rank 0 counts for all ranks.
  void set_seconds(double seconds);
  /// This rank ends with an error of its own: the others end too. Returns when they were told.
  void fail(const std::string& reason);

 private:
  class Watch;
  std::unique_ptr<Watch> watch_;
  std::thread thread_;
  int exceptions_;
};

}  // namespace megatron
