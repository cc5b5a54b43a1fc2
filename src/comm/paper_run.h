// Collectives of many ranks, run on paper: do all members of a communicator call the same, and does nobody wait for
// ever? Every collective waits for all of its members and every transfer for its other side, which is more than any
// backend waits; so ranks that come to the end here come to the end on all of them.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "program/planned_call.h"

namespace megatron {

/// Texts by number, so that comparing them is cheap.
class Texts {
 public:
  int number(const std::string& text);
  const std::string& text(int number) const { return texts_[static_cast<size_t>(number)]; }

 private:
  std::map<std::string, int> numbers_;
  std::vector<std::string> texts_;
};

struct PaperComm {
  std::string name;
  std::vector<int64_t> members;  ///< ranks of the run, in the order of the communicator
};

/// One collective or transfer of one rank. `what` and `moment` must agree among the members, as the call must.
struct PaperCall {
  int comm = 0;
  const PlannedCall* call = nullptr;  ///< outlives the run
  int what = 0;                       ///< operation and module, or the value that is transferred
  int moment = 0;                     ///< "F3.1", "update"
};

/// All that a rank calls, in its order.
struct PaperScript {
  int64_t rank = 0;
  std::vector<PaperCall> calls;
};

struct PaperRun {
  Texts texts;
  std::vector<PaperComm> comms;
  std::vector<PaperScript> scripts;
  std::deque<PlannedCall> transfers;  ///< that scripts point to
};

struct PaperReport {
  int64_t communicators = 0;  ///< whose members were compared
  int64_t collectives = 0;    ///< that all members called alike
  int64_t transfers = 0;
  int64_t alone = 0;  ///< calls on communicators of which one member has a script: nothing was compared
};

/// Of a communicator either all members have a script or one has. InternalError names both ranks, what they do with its
/// module, and the two calls where members differ; where ranks wait for ever, who waits in what.
PaperReport run_on_paper(const PaperRun& run);

}  // namespace megatron
