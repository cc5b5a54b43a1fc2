// Runs a schedule on paper. Knows nothing of how schedules are made: it looks at the instructions alone.
#include <algorithm>
#include <map>
#include <tuple>

#include "base/check.h"
#include "base/strings.h"
#include "parallel/pipeline_schedule.h"

namespace megatron {
namespace {

using Action = Instruction::Action;

class Simulation {
 public:
  Simulation(const PipelineSchedule& schedule, const PhaseTimes& times)
      : schedule_(schedule),
        shape_(schedule.shape),
        times_(times),
        last_(!shape_.backward              ? Phase::kForward
              : schedule.has_weight_phase() ? Phase::kWeightGradient
                                            : Phase::kBackward),
        stages_(schedule.stages.size()) {
    check(std::ssize(schedule.stages) == shape_.stages, "there are not as many lists as stages");
  }

  PipelineReport run() {
    bool moved = true;
    while (moved) {
      moved = false;
      for (int s = 0; s < shape_.stages; ++s) {
        while (advance(s)) moved = true;
      }
    }
    std::string waiting;
    for (int s = 0; s < shape_.stages; ++s) {
      if (at_end(s)) continue;
      waiting += str_cat(waiting.empty() ? "" : "; ", "stage ", s, " waits in ", describe(now(s)));
    }
    check(waiting.empty(), "for ever: " + waiting);
    check_complete();
    return report();
  }

 private:
  struct Stage {
    size_t next = 0;
    double free = 0, busy = 0;                   ///< of its arithmetic
    double forward_wire = 0, backward_wire = 0;  ///< when its transfers of each direction are done
    int in_flight = 0, peak = 0;
  };
  /// What happened to one micro-batch on one part of the model; times of the end, or -1.
  struct Progress {
    double handed = -1, taken_back = -1, ran[kPhases] = {-1, -1, -1};
    double sent = -1, given_back = -1;
  };

  static void check(bool good, const std::string& what) {
    if (!good) fail_check(__FILE__, __LINE__, "simulate", "pipeline schedule: " + what);
  }
  void check_at(bool good, int stage, const std::string& what) const {
    check(good, str_cat("stage ", stage, ", ", describe(now(stage)), ": ", what));
  }

  bool at_end(int s) const { return stage(s).next == list(s).size(); }
  const std::vector<Instruction>& list(int s) const { return schedule_.stages[static_cast<size_t>(s)]; }
  const Instruction& now(int s) const { return list(s)[stage(s).next]; }
  const Stage& stage(int s) const { return stages_[static_cast<size_t>(s)]; }
  Stage& stage(int s) { return stages_[static_cast<size_t>(s)]; }
  int part_of(int s, int chunk) const { return chunk * shape_.stages + s; }
  int parts() const { return shape_.chunks * shape_.stages; }
  bool is_first(int s, int chunk) const { return part_of(s, chunk) == 0; }
  bool is_last(int s, int chunk) const { return part_of(s, chunk) == parts() - 1; }
  Progress& progress(int s, const Instruction& i) { return progress_[{part_of(s, i.chunk), i.micro_batch}]; }

  /// One step of a stage; false where it must wait.
  bool advance(int s) {
    if (at_end(s)) return false;
    const Instruction& i = now(s);
    check_at(i.chunk >= 0 && i.chunk < shape_.chunks && i.micro_batch >= 0 && i.micro_batch < shape_.micro_batches, s,
             "there is no such chunk or micro-batch");
    if (i.action == Action::kRun) {
      run_phase(s, i);
      ++stage(s).next;
      return true;
    }
    if (i.action == Action::kReceive) return false;  // the sender moves both
    check_at(i.peer >= 0 && i.peer < shape_.stages && i.peer != s, s, "there is no such stage to send to");
    if (at_end(i.peer) || now(i.peer).action != Action::kReceive || now(i.peer).peer != s) return false;
    transfer(s, i, i.peer, now(i.peer));
    ++stage(s).next;
    ++stage(i.peer).next;
    return true;
  }

  double length_of(int s, const Instruction& i) const {
    const auto phase = static_cast<size_t>(i.phase);
    if (!times_.chunks.empty()) {
      const ChunkTimes& times = times_.chunks[static_cast<size_t>(s)][static_cast<size_t>(i.chunk)];
      const bool edge = i.micro_batch == (i.phase == Phase::kForward ? 0 : shape_.micro_batches - 1);
      return edge ? times.edge[phase] : times.inner[phase];
    }
    const double usual[kPhases] = {times_.forward, times_.backward, times_.weight};
    return usual[phase] * (times_.stage_load.empty() ? 1.0 : times_.stage_load[static_cast<size_t>(s)]);
  }

  void run_phase(int s, const Instruction& i) {
    Progress& p = progress(s, i);
    double& done = p.ran[static_cast<size_t>(i.phase)];
    check_at(done < 0, s, "done a second time");
    const double length = length_of(s, i);
    double start = stage(s).free;
    if (i.phase == Phase::kForward) {
      check_at(is_first(s, i.chunk) || p.handed >= 0, s, "before its input was received");
      start = std::max({start, p.handed, take_slot(s, i)});
    } else if (i.phase == Phase::kBackward) {
      check_at(p.ran[0] >= 0, s, "before its forward");
      check_at(is_last(s, i.chunk) || p.taken_back >= 0, s, "before its gradient was received");
      start = std::max(start, p.taken_back);
    } else {
      check_at(p.ran[1] >= 0, s, "before its backward");
    }
    check_slot(s, i);
    done = stage(s).free = start + length;
    stage(s).busy += length;
    if (i.phase == last_) --stage(s).in_flight;
  }

  void transfer(int from, const Instruction& sends, int to, const Instruction& receives) {
    const bool forward = sends.phase == Phase::kForward;
    check_at(sends.phase != Phase::kWeightGradient, from, "nothing of phase W is sent");
    check_at(receives.phase == sends.phase && receives.micro_batch == sends.micro_batch, from,
             str_cat("stage ", to, " does ", describe(receives)));
    const int distance = part_of(to, receives.chunk) - part_of(from, sends.chunk);
    check_at(distance == (forward ? 1 : -1), from,
             str_cat("goes to chunk ", receives.chunk, ", which is no neighbour"));
    Progress &source = progress(from, sends), &target = progress(to, receives);
    double& sent = forward ? source.sent : source.given_back;
    double& got = forward ? target.handed : target.taken_back;
    const double made = source.ran[static_cast<size_t>(sends.phase)];
    check_at(made >= 0, from, "before it is made");
    check_at(sent < 0 && got < 0, from, "sent a second time");
    double start = made;
    check_slot(from, sends);
    if (forward) {
      start = std::max(start, take_slot(to, receives));
    } else {
      check_at(target.ran[0] >= 0, from, str_cat("stage ", to, " has not done its forward"));
    }
    check_slot(to, receives);
    double Stage::*const wire = forward ? &Stage::forward_wire : &Stage::backward_wire;
    start = std::max({start, stage(from).*wire, stage(to).*wire});
    sent = got = stage(from).*wire = stage(to).*wire = start + times_.transfer;
  }

  /// The slot set becomes that of the micro-batch; when it was free.
  double take_slot(int s, const Instruction& i) {
    const auto sets = schedule_.slot_sets[static_cast<size_t>(s)][static_cast<size_t>(i.chunk)];
    check_at(i.slot_set >= 0 && i.slot_set < sets, s, str_cat("slot set ", i.slot_set, " of ", sets));
    const auto [owner, fresh] = owners_.try_emplace({s, i.chunk, i.slot_set}, i.micro_batch);
    if (!fresh && owner->second == i.micro_batch) return 0;  // since it was received
    double free = 0;
    if (!fresh) {
      Instruction before = i;
      before.micro_batch = owner->second;
      const Progress& p = progress(s, before);
      const bool in_use = p.ran[static_cast<size_t>(last_)] < 0 || (!is_last(s, i.chunk) && p.sent < 0) ||
                          (shape_.backward && !is_first(s, i.chunk) && p.given_back < 0);
      check_at(!in_use, s, str_cat("slot set ", i.slot_set, " is in use by micro-batch ", owner->second));
      free = std::max({p.ran[static_cast<size_t>(last_)], p.sent, p.given_back});
      owner->second = i.micro_batch;
    }
    stage(s).peak = std::max(stage(s).peak, ++stage(s).in_flight);
    return free;
  }

  void check_slot(int s, const Instruction& i) const {
    const auto owner = owners_.find({s, i.chunk, i.slot_set});
    check(owner != owners_.end() && owner->second == i.micro_batch,
          str_cat("stage ", s, ", ", describe(i), ": slot set ", i.slot_set, " is not its own"));
  }

  void check_complete() {
    for (int part = 0; part < parts(); ++part) {
      for (int m = 0; m < shape_.micro_batches; ++m) {
        const Progress& p = progress_[{part, m}];
        const std::string place =
            str_cat("micro-batch ", m, ", chunk ", part / shape_.stages, " of stage ", part % shape_.stages, ": ");
        for (int phase = 0; phase <= static_cast<int>(last_); ++phase) {
          check(p.ran[phase] >= 0, place + name_of(static_cast<Phase>(phase)) + " is never done");
        }
        check(part == parts() - 1 || p.sent >= 0, place + "its output is never sent");
        check(part == 0 || !shape_.backward || p.given_back >= 0, place + "its gradient is never sent");
      }
    }
  }

  PipelineReport report() const {
    PipelineReport report;
    for (const Stage& s : stages_) {
      report.seconds = std::max(report.seconds, s.free);
      report.busy = std::max(report.busy, s.busy);
      report.in_flight.push_back(s.peak);
    }
    report.bubble = (report.seconds - report.busy) / report.busy;
    return report;
  }

  const PipelineSchedule& schedule_;
  const PipelineShape shape_;
  const PhaseTimes times_;
  const Phase last_;
  std::vector<Stage> stages_;
  std::map<std::pair<int, int>, Progress> progress_;  ///< by part and micro-batch
  std::map<std::tuple<int, int, int>, int> owners_;   ///< micro-batch by stage, chunk and slot set
};

}  // namespace

PhaseTimes usual_times(const PipelineSchedule& schedule) {
  if (schedule.has_weight_phase()) return {1, 1, 1, 0, {}, {}};
  return {1, 2, 0, 0, {}, {}};
}

PipelineReport simulate(const PipelineSchedule& schedule, const PhaseTimes& times) {
  return Simulation(schedule, times).run();
}

}  // namespace megatron
