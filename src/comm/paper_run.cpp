#include "comm/paper_run.h"

#include <algorithm>

#include "base/check.h"
#include "base/error.h"
#include "base/strings.h"
#include "comm/call_match.h"

namespace megatron {
namespace {

class PaperRunner {
 public:
  explicit PaperRunner(const PaperRun& run) : run_(run), states_(run.scripts.size()) {
    std::map<int64_t, int> by_rank;
    for (size_t s = 0; s < run.scripts.size(); ++s) by_rank[run.scripts[s].rank] = narrow<int>(s);
    for (const PaperComm& comm : run.comms) {
      Present present;
      for (size_t m = 0; m < comm.members.size(); ++m) {
        const auto found = by_rank.find(comm.members[m]);
        present.scripts.push_back(found == by_rank.end() ? -1 : found->second);
        present.count += found == by_rank.end() ? 0 : 1;
      }
      MEGATRON_CHECK(present.count <= 1 || present.count == std::ssize(comm.members),
                     "communicator " + comm.name + ": some of its members have scripts and some have none");
      report_.communicators += present.count > 1 ? 1 : 0;
      present_.push_back(std::move(present));
    }
  }

  PaperReport run() {
    for (size_t s = states_.size(); s > 0; --s) work_.push_back(narrow<int>(s - 1));  // the first rank first
    while (!work_.empty()) {
      const int script = work_.back();
      work_.pop_back();
      while (advance(script)) {
      }
    }
    check_all_at_end();
    return report_;
  }

 private:
  struct State {
    size_t next = 0;
    bool arrived = false, sent = false, received = false;  ///< of the current call
  };
  struct Present {
    std::vector<int> scripts;  ///< by member; -1: none
    int64_t count = 0, arrived = 0;
    int first = -1;  ///< script that came first to the collective that is waited in
  };

  const PaperScript& script(int s) const { return run_.scripts[static_cast<size_t>(s)]; }
  State& state(int s) { return states_[static_cast<size_t>(s)]; }
  const State& state(int s) const { return states_[static_cast<size_t>(s)]; }
  bool at_end(int s) const { return state(s).next == script(s).calls.size(); }
  const PaperCall& now(int s) const { return script(s).calls[state(s).next]; }
  const PaperComm& comm_of(const PaperCall& call) const { return run_.comms[static_cast<size_t>(call.comm)]; }

  /// "rank 5: F3.1, decoder.layers.7.mlp, all_gather: all_gather to 12 bf16".
  std::string place(int s) const {
    const PaperCall& call = now(s);
    return str_cat("rank ", script(s).rank, ": ", run_.texts.text(call.moment), ", ", run_.texts.text(call.what), ": ",
                   describe(*call.call));
  }
  [[noreturn]] void refuse(int a, int b, const std::string& numbers) const {
    const std::string why = now(a).moment != now(b).moment ? " (another moment)"
                            : now(a).what != now(b).what   ? " (another operation)"
                                                           : "";
    throw InternalError(str_cat("communicator ", comm_of(now(a)).name, ": ranks do not do the same: ", place(a), "; ",
                                place(b), numbers.empty() ? why : numbers));
  }
  bool same_purpose(int a, int b) const { return now(a).what == now(b).what && now(a).moment == now(b).moment; }

  void step(int s) {
    state(s) = {state(s).next + 1, false, false, false};
    work_.push_back(s);
  }

  /// One call of a rank; false where it must wait or is at its end.
  bool advance(int s) {
    if (at_end(s)) return false;
    Present& present = present_[static_cast<size_t>(now(s).comm)];
    if (present.count == 1) {
      ++report_.alone;
      ++state(s).next;
      return true;
    }
    if (now(s).call->op == CommOp::kExchange) return exchange(s, present);
    if (state(s).arrived) return false;
    state(s).arrived = true;
    if (present.arrived++ == 0) present.first = s;
    if (now(s).call->op != now(present.first).call->op || !same_purpose(s, present.first)) refuse(present.first, s, "");
    if (present.arrived < present.count) return false;
    meet(present);
    return false;  // it is on the list of work, as the others are
  }

  /// All members are in a collective.
  void meet(Present& present) {
    calls_.clear();
    for (const int s : present.scripts) calls_.push_back(to_call(*now(s).call));
    if (const CallMismatch found = compare_calls(calls_)) {
      refuse(present.scripts[found.a], present.scripts[found.b], found.numbers);
    }
    ++report_.collectives;
    present.arrived = 0;
    for (const int s : present.scripts) step(s);
  }

  bool exchange(int s, const Present& present) {
    const PlannedCall& mine = *now(s).call;
    const auto member_of = [&](int script) {
      return static_cast<int>(std::find(present.scripts.begin(), present.scripts.end(), script) -
                              present.scripts.begin());
    };
    const int me = member_of(s);
    if (mine.to >= 0 && !state(s).sent) {
      const int other = present.scripts.at(static_cast<size_t>(mine.to));
      if (stands_opposite(s, other) && now(other).call->from == me && !state(other).received) transfer(s, other);
    }
    if (mine.from >= 0 && !state(s).received) {
      const int other = present.scripts.at(static_cast<size_t>(mine.from));
      if (stands_opposite(s, other) && now(other).call->to == me && !state(other).sent) transfer(other, s);
    }
    if ((mine.to >= 0 && !state(s).sent) || (mine.from >= 0 && !state(s).received)) return false;
    step(s);
    return false;
  }

  /// The other side is in a transfer too. In a collective it would never come out, since this rank is missing there.
  bool stands_opposite(int s, int other) const {
    if (at_end(other) || now(other).comm != now(s).comm) return false;
    if (state(other).arrived) refuse(other, s, "");
    return now(other).call->op == CommOp::kExchange;
  }

  void transfer(int from, int to) {
    const PlannedCall &sent = *now(from).call, &wanted = *now(to).call;
    if (!same_purpose(from, to) || sent.dtype != wanted.dtype || sent.sent != wanted.received) refuse(from, to, "");
    state(from).sent = state(to).received = true;
    ++report_.transfers;
    work_.push_back(from);
    work_.push_back(to);
  }

  void check_all_at_end() const {
    constexpr int kNamed = 8;
    std::string waiting;
    int count = 0;
    for (int s = 0; s < narrow<int>(std::ssize(states_)); ++s) {
      if (at_end(s) || count++ >= kNamed) continue;
      waiting += str_cat(waiting.empty() ? "" : "; ", place(s), " over ", comm_of(now(s)).name);
    }
    if (count == 0) return;
    throw InternalError(
        str_cat(count, " of ", states_.size(), " ranks wait for ever: ", waiting, count > kNamed ? "; ..." : ""));
  }

  const PaperRun& run_;
  std::vector<State> states_;
  std::vector<Present> present_;  ///< by communicator
  std::vector<int> work_;
  std::vector<CommCall> calls_;
  PaperReport report_;
};

}  // namespace

int Texts::number(const std::string& text) {
  const auto [found, fresh] = numbers_.try_emplace(text, narrow<int>(std::ssize(texts_)));
  if (fresh) texts_.push_back(text);
  return found->second;
}

PaperReport run_on_paper(const PaperRun& run) {
  return PaperRunner(run).run();
}

}  // namespace megatron
