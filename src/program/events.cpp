// Where two streams must meet: derived from the memory that operations read and write, so that data dependences and the
// reuse of memory are one rule. A communicator counts as memory that its operations write: two streams never drive it
// at the same time, and all ranks give it their calls in the order of the list.
#include <algorithm>
#include <array>

#include "program/plan.h"

namespace megatron {
namespace {

/// Bytes [begin, end) of one memory: a region of the arena, or a persistent root.
struct Access {
  int64_t memory = 0, begin = 0, end = 0;
  bool writes = false;
};

class EventFinder {
 public:
  explicit EventFinder(Plan& plan) : plan_(plan), program_(plan.program) {}

  void run() {
    for (const bool edges : {true, false}) {
      waits_.assign(program_.ops.size(), {});
      for (int phase = 0; phase < kPhases; ++phase) run_phase(static_cast<Phase>(phase), edges);
      (edges ? plan_.waits : plan_.inner_waits) = waits_;
    }
  }

 private:
  static constexpr size_t kStreams = Device::kStreams;
  static size_t stream_of(const Op& op) { return static_cast<size_t>(op.stream); }

  /// With or without the operations that run once per step: a wait that goes through one of them does not hold
  /// without it.
  void run_phase(Phase phase, bool edges) {
    history_ = {};
    known_ = {};
    int position = 0;
    for (OpId id : program_.list(phase)) {
      const Op& op = program_.op(id);
      if (op.kind->is_view() || (op.edge && !edges)) continue;
      const size_t own = stream_of(op);
      const std::vector<Access> accesses = accesses_of(id);
      for (size_t other = 0; other < kStreams; ++other) {
        if (other != own) wait_for(id, own, other, accesses);
      }
      known_[own][own] = position;
      history_[own].push_back({id, position++, accesses, known_[own]});
    }
  }

  /// The last operation of `other` that touches the same memory is enough, since its stream runs in order; none that
  /// this stream waited for already, directly or through others.
  void wait_for(OpId id, size_t own, size_t other, const std::vector<Access>& accesses) {
    const auto& past = history_[other];
    for (auto entry = past.rbegin(); entry != past.rend() && entry->position > known_[own][other]; ++entry) {
      if (!conflict(entry->accesses, accesses)) continue;
      waits_[static_cast<size_t>(id)].push_back(entry->id);
      for (size_t s = 0; s < kStreams; ++s) known_[own][s] = std::max(known_[own][s], entry->known[s]);
      return;
    }
  }

  static bool conflict(const std::vector<Access>& a, const std::vector<Access>& b) {
    for (const Access& x : a) {
      for (const Access& y : b) {
        if ((x.writes || y.writes) && x.memory == y.memory && x.begin < y.end && y.begin < x.end) return true;
      }
    }
    return false;
  }

  std::vector<Access> accesses_of(OpId id) const {
    const Op& op = program_.op(id);
    std::vector<Access> accesses;
    if (joins_in_place(plan_, id)) return accesses;  // nothing runs
    if (!op.kind->comm_axis().empty()) {
      accesses.push_back({kCommunicators - program_.mesh.find(op.kind->comm_axis()), 0, 1, true});
    }
    for (ValueId v : op.operands) add(accesses, v, false);
    for (int i : op.kind->updates()) add(accesses, op.operands[static_cast<size_t>(i)], true);
    for (ValueId v : op.results) add(accesses, v, true);
    for (ValueId v : op.accumulate) add(accesses, v, false);
    const Slot& workspace = plan_.workspaces[static_cast<size_t>(id)];
    if (workspace.bytes > 0) {
      accesses.push_back({memory_of(Region::kTransient), workspace.offset, workspace.offset + workspace.bytes, true});
    }
    return accesses;
  }

  static constexpr int64_t kCommunicators = -100;  ///< and below: one for each mesh axis
  static int64_t memory_of(Region region) { return -1 - static_cast<int64_t>(region); }

  void add(std::vector<Access>& accesses, ValueId v, bool writes) const {
    if (v == kNone || plan_.unread[static_cast<size_t>(v)]) return;
    const ValueInfo& info = program_.value(v);
    if (program_.local_shape(v).numel() == 0) return;
    const Slot& slot = plan_.slots[static_cast<size_t>(info.storage.root)];
    const bool persistent = slot.region == Region::kPersistent;
    const auto [first, last] = reach_of(program_, v);
    const int64_t size = size_of(info.dtype), base = persistent ? 0 : slot.offset;
    accesses.push_back({persistent ? int64_t{info.storage.root} : memory_of(slot.region), base + first * size,
                        base + (last + 1) * size, writes});
  }

  /// Per stream the position up to which its work is known to be done; -1: none of it.
  struct Known : std::array<int, kStreams> {
    Known() { fill(-1); }
  };
  struct Entry {
    OpId id;
    int position;
    std::vector<Access> accesses;
    Known known;  ///< after this operation
  };

  Plan& plan_;
  const Program& program_;
  std::vector<std::vector<OpId>> waits_;
  std::array<std::vector<Entry>, kStreams> history_;
  std::array<Known, kStreams> known_;  ///< per stream, for what it is given next
};

}  // namespace

void derive_events(Plan& plan) {
  EventFinder(plan).run();
}

}  // namespace megatron
