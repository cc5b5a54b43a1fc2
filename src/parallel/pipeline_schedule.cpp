#include "parallel/pipeline_schedule.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <queue>
#include <tuple>

#include "base/check.h"
#include "base/error.h"
#include "base/strings.h"

namespace megatron {
namespace {

/// A phase of one micro-batch on one stage.
struct Run {
  Phase phase;
  int chunk, micro_batch;
};
using Order = std::vector<Run>;

int total(const PipelineShape& shape) {
  return shape.chunks * shape.micro_batches;
}

/// In groups of as many micro-batches as there are stages, each group through all chunks: the k-th forward of a stage.
/// What would be left for a smaller last group joins the one before, since a group must fill the pipeline.
Order forward_order(const PipelineShape& shape) {
  Order order;
  for (int begin = 0; begin < shape.micro_batches;) {
    const int left = shape.micro_batches - begin;
    const int size = left < 2 * shape.stages ? left : shape.stages;
    for (int chunk = 0; chunk < shape.chunks; ++chunk) {
      for (int m = begin; m < begin + size; ++m) order.push_back({Phase::kForward, chunk, m});
    }
    begin += size;
  }
  return order;
}

/// Forwards that a stage does before its first backward.
int warm_up(ScheduleKind kind, const PipelineShape& shape, int stage) {
  if (kind == ScheduleKind::kGPipe) return total(shape);
  const int behind = shape.stages - stage - 1;
  if (shape.chunks == 1) return std::min(behind, shape.micro_batches);
  const int tail = shape.micro_batches % shape.stages;
  const int largest_group = shape.micro_batches < shape.stages ? shape.micro_batches : shape.stages + tail;
  return std::min(2 * behind + (shape.chunks - 1) * largest_group, total(shape));
}

Order stage_order(ScheduleKind kind, const PipelineShape& shape, int stage) {
  const Order forward = forward_order(shape);
  if (!shape.backward) return forward;
  const auto backward = [&](int k) {
    const Run& same = forward[static_cast<size_t>(k)];
    return Run{Phase::kBackward, shape.chunks - 1 - same.chunk, same.micro_batch};
  };
  const int ahead = warm_up(kind, shape, stage), n = total(shape);
  Order order(forward.begin(), forward.begin() + ahead);
  for (int k = 0; k < n; ++k) {
    if (k + ahead < n) order.push_back(forward[static_cast<size_t>(k + ahead)]);
    order.push_back(backward(k));
  }
  return order;
}

/// Most micro-batches of `chunk` (-1: of all) between their forward and their last phase.
int peak_in_flight(const Order& order, Phase last, int chunk) {
  int now = 0, peak = 0;
  for (const Run& run : order) {
    if (chunk >= 0 && run.chunk != chunk) continue;
    if (run.phase == Phase::kForward) peak = std::max(peak, ++now);
    if (run.phase == last) --now;
  }
  return peak;
}

/// Puts the weight gradients where a stage would wait, and where one more forward would hold more than the first stage
/// does without them. Phases count one unit of time each.
class WeightFiller {
 public:
  WeightFiller(const PipelineShape& shape, std::vector<Order> orders)
      : shape_(shape), orders_(std::move(orders)), states_(orders_.size()) {
    for (const Order& order : orders_) limit_ = std::max(limit_, peak_in_flight(order, Phase::kBackward, -1));
    const auto parts = static_cast<size_t>(shape.stages * shape.chunks);
    for (auto& done : done_) done.assign(parts, std::vector<int>(static_cast<size_t>(shape.micro_batches), kNever));
  }

  std::vector<Order> run() {
    const auto wanted = static_cast<size_t>(3 * total(shape_));
    bool complete = false;
    for (int now = 0; !complete; ++now) {
      MEGATRON_CHECK(now <= 8 * total(shape_) * shape_.stages, "the order of a pipeline waits for ever");
      complete = true;
      for (size_t s = 0; s < orders_.size(); ++s) {
        step(s, now);
        complete = complete && states_[s].made.size() == wanted;
      }
    }
    std::vector<Order> made;
    for (State& state : states_) made.push_back(std::move(state.made));
    return made;
  }

 private:
  static constexpr int kNever = std::numeric_limits<int>::max();
  struct State {
    size_t next = 0;
    int in_flight = 0;
    std::queue<Run> waiting;  ///< weight gradients
    Order made;
  };

  int& done(Phase phase, int part, int m) {
    return done_[static_cast<size_t>(phase)][static_cast<size_t>(part)][static_cast<size_t>(m)];
  }

  bool ready(const Run& run, int stage, int now) {
    const int part = run.chunk * shape_.stages + stage, last = shape_.stages * shape_.chunks - 1;
    if (run.phase == Phase::kForward) return part == 0 || done(Phase::kForward, part - 1, run.micro_batch) <= now;
    return part == last || done(Phase::kBackward, part + 1, run.micro_batch) <= now;
  }

  void step(size_t s, int now) {
    State& state = states_[s];
    const int stage = static_cast<int>(s);
    const bool left = state.next < orders_[s].size();
    const bool full = left && orders_[s][state.next].phase == Phase::kForward && state.in_flight == limit_;
    if (left && ready(orders_[s][state.next], stage, now) && !full) {
      const Run& run = orders_[s][state.next++];
      state.made.push_back(run);
      done(run.phase, run.chunk * shape_.stages + stage, run.micro_batch) = now + 1;
      if (run.phase == Phase::kForward) ++state.in_flight;
      if (run.phase == Phase::kBackward) state.waiting.push({Phase::kWeightGradient, run.chunk, run.micro_batch});
    } else if (!state.waiting.empty()) {
      state.made.push_back(state.waiting.front());
      state.waiting.pop();
      --state.in_flight;
    }
  }

  const PipelineShape shape_;
  const std::vector<Order> orders_;
  int limit_ = 0;
  std::vector<State> states_;
  std::array<std::vector<std::vector<int>>, 2> done_;  ///< when a phase of [part][micro-batch] is done
};

std::vector<Order> orders_of(ScheduleKind kind, const PipelineShape& shape) {
  MEGATRON_CHECK(shape.stages >= 1 && shape.chunks >= 1 && shape.micro_batches >= 1,
                 "a pipeline has stages, chunks and micro-batches");
  MEGATRON_CHECK(shape.chunks == 1 || shape.stages > 1, "several chunks need several stages");
  std::vector<Order> orders;
  for (int s = 0; s < shape.stages; ++s) orders.push_back(stage_order(kind, shape, s));
  if (kind == ScheduleKind::kZeroBubble && shape.backward) orders = WeightFiller(shape, std::move(orders)).run();
  return orders;
}

Phase last_phase(ScheduleKind kind, const PipelineShape& shape) {
  if (!shape.backward) return Phase::kForward;
  return kind == ScheduleKind::kZeroBubble ? Phase::kWeightGradient : Phase::kBackward;
}

std::vector<std::vector<int>> slot_sets_in(const std::vector<Order>& orders, ScheduleKind kind,
                                           const PipelineShape& shape) {
  std::vector<std::vector<int>> sets(static_cast<size_t>(shape.stages));
  for (int s = 0; s < shape.stages; ++s) {
    for (int c = 0; c < shape.chunks; ++c) {
      const int needed = peak_in_flight(orders[static_cast<size_t>(s)], last_phase(kind, shape), c);
      const bool receives = c * shape.stages + s > 0;
      sets[static_cast<size_t>(s)].push_back(std::min(needed + (receives ? 1 : 0), shape.micro_batches));
    }
  }
  return sets;
}

/// All runs and transfers as a graph of what must come before what; in the order of the times at which they could be
/// done they are what make_schedule() promises.
class Timeline {
 public:
  Timeline(PipelineSchedule& schedule, const std::vector<Order>& orders)
      : schedule_(schedule),
        shape_(schedule.shape),
        orders_(orders),
        parts_(shape_.stages * shape_.chunks),
        last_(last_phase(schedule.kind, schedule.shape)) {
    events_.resize(static_cast<size_t>(parts_ * shape_.micro_batches * kKinds));
  }

  void run() {
    for (int s = 0; s < shape_.stages; ++s) link_runs(s);
    for (int part = 0; part < parts_; ++part) {
      for (int m = 0; m < shape_.micro_batches; ++m) link_transfers(part, m);
    }
    write(sorted());
  }

 private:
  /// Runs of the three phases, and the transfers of a part: what it is handed, and the gradient that it gives back.
  enum Kind { kF, kB, kW, kHanded, kGivenBack, kKinds };
  struct Event {
    bool exists = false;
    int64_t length = 0, start = 0;
    int waits = 0;
    std::vector<int> then;
  };

  int stage_of(int part) const { return part % shape_.stages; }
  int chunk_of(int part) const { return part / shape_.stages; }
  int id(Kind kind, int part, int m) const { return (part * shape_.micro_batches + m) * kKinds + kind; }
  Event& event(int i) { return events_[static_cast<size_t>(i)]; }

  void after(int earlier, int later) {
    event(earlier).then.push_back(later);
    ++event(later).waits;
  }

  int slot_sets(int part) const {
    return schedule_.slot_sets[static_cast<size_t>(stage_of(part))][static_cast<size_t>(chunk_of(part))];
  }

  void link_runs(int stage) {
    int before = -1;
    for (const Run& run : orders_[static_cast<size_t>(stage)]) {
      const int part = run.chunk * shape_.stages + stage, m = run.micro_batch;
      const int now = id(static_cast<Kind>(run.phase), part, m);
      event(now).exists = true;
      const bool whole_backward = run.phase == Phase::kBackward && !schedule_.has_weight_phase();
      event(now).length = whole_backward ? 2000 : 1000;
      if (before >= 0) after(before, now);
      before = now;
      if (run.phase == Phase::kForward) {
        if (part > 0) after(id(kHanded, part, m), now);
        after_sends_of_slot(part, m, now);
      } else if (run.phase == Phase::kBackward && part + 1 < parts_) {
        after(id(kGivenBack, part + 1, m), now);
      }
    }
  }

  /// The memory of a slot set is used again once what lies in it was sent.
  void after_sends_of_slot(int part, int m, int later) {
    const int before = m - slot_sets(part);
    if (before < 0) return;
    if (part + 1 < parts_) after(id(kHanded, part + 1, before), later);
    if (part > 0 && shape_.backward) after(id(kGivenBack, part, before), later);
  }

  void link_transfers(int part, int m) {
    if (part == 0) return;
    const int handed = id(kHanded, part, m), given_back = id(kGivenBack, part, m);
    event(handed).exists = true;
    event(handed).length = 1;
    after(id(kF, part - 1, m), handed);
    const int before = m - slot_sets(part);
    if (before >= 0) after(id(static_cast<Kind>(last_), part, before), handed);
    after_sends_of_slot(part, m, handed);
    if (!shape_.backward) return;
    event(given_back).exists = true;
    event(given_back).length = 1;
    after(id(kB, part, m), given_back);
  }

  std::vector<int> sorted() {
    std::vector<int> ready, done;
    for (size_t i = 0; i < events_.size(); ++i) {
      if (events_[i].exists && events_[i].waits == 0) ready.push_back(static_cast<int>(i));
    }
    while (!ready.empty()) {
      const int now = ready.back();
      ready.pop_back();
      for (int later : event(now).then) {
        event(later).start = std::max(event(later).start, event(now).start + event(now).length);
        if (--event(later).waits == 0) ready.push_back(later);
      }
      done.push_back(now);
    }
    const auto all = std::count_if(events_.begin(), events_.end(), [](const Event& e) { return e.exists; });
    MEGATRON_CHECK(std::ssize(done) == all,
                   str_cat("a ", name_of(schedule_.kind), " schedule of ", shape_.stages, " stages, ", shape_.chunks,
                           " chunks and ", shape_.micro_batches, " micro-batches waits for itself"));
    // What a stage is handed while it runs a phase stands behind that phase: before its end it is of no use.
    std::sort(done.begin(), done.end(), [&](int a, int b) {
      const auto key = [&](int i) { return std::tuple(event(i).start, i % kKinds <= kW, i); };
      return key(a) < key(b);
    });
    return done;
  }

  void write(const std::vector<int>& order) {
    schedule_.stages.resize(static_cast<size_t>(shape_.stages));
    for (int i : order) {
      const int kind = i % kKinds, m = i / kKinds % shape_.micro_batches, part = i / kKinds / shape_.micro_batches;
      if (kind <= kW) {
        add(Instruction::Action::kRun, static_cast<Phase>(kind), part, m, -1);
      } else if (kind == kHanded) {
        add(Instruction::Action::kSend, Phase::kForward, part - 1, m, part);
        add(Instruction::Action::kReceive, Phase::kForward, part, m, part - 1);
      } else {
        add(Instruction::Action::kSend, Phase::kBackward, part, m, part - 1);
        add(Instruction::Action::kReceive, Phase::kBackward, part - 1, m, part);
      }
    }
  }

  void add(Instruction::Action action, Phase phase, int part, int m, int peer_part) {
    schedule_.stages[static_cast<size_t>(stage_of(part))].push_back(
        {action, phase, chunk_of(part), m, m % slot_sets(part), peer_part < 0 ? -1 : stage_of(peer_part)});
  }

  PipelineSchedule& schedule_;
  const PipelineShape shape_;
  const std::vector<Order>& orders_;
  const int parts_;
  const Phase last_;
  std::vector<Event> events_;
};

}  // namespace

const char* name_of(ScheduleKind kind) {
  switch (kind) {
    case ScheduleKind::kGPipe:
      return "gpipe";
    case ScheduleKind::k1F1B:
      return "1f1b";
    case ScheduleKind::kZeroBubble:
      return "zero-bubble";
  }
  return "?";
}

ScheduleKind parse_schedule(const std::string& name) {
  for (const ScheduleKind kind : {ScheduleKind::kGPipe, ScheduleKind::k1F1B, ScheduleKind::kZeroBubble}) {
    if (name == name_of(kind)) return kind;
  }
  throw UsageError("'" + name + "' is no pipeline schedule; use 1f1b, gpipe or zero-bubble");
}

std::string describe(const Instruction& i) {
  const std::string what = str_cat(name_of(i.phase), i.micro_batch, ".", i.chunk);
  if (i.action == Instruction::Action::kSend) return str_cat("send ", what, " to ", i.peer);
  if (i.action == Instruction::Action::kReceive) return str_cat("receive ", what, " from ", i.peer);
  return what;
}

std::vector<std::vector<int>> slot_sets_of(ScheduleKind kind, const PipelineShape& shape) {
  return slot_sets_in(orders_of(kind, shape), kind, shape);
}

PipelineSchedule make_schedule(ScheduleKind kind, const PipelineShape& shape) {
  PipelineSchedule schedule;
  schedule.kind = kind;
  schedule.shape = shape;
  const std::vector<Order> orders = orders_of(kind, shape);
  schedule.slot_sets = slot_sets_in(orders, kind, shape);
  Timeline(schedule, orders).run();
  return schedule;
}

}  // namespace megatron
