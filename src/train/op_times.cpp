#include "train/op_times.h"

#include <algorithm>
#include <map>

namespace megatron {

std::vector<OpTime> time_operations(Executor& executor, const std::string& label, int repeats) {
  Device& device = executor.device();
  struct Timer {
    std::unique_ptr<Event> begin, end;
    Phase phase;
    double least = 0;
  };
  std::map<OpId, Timer> timers;
  const Program& program = executor.plan().program;
  const auto timer = [&](Phase phase, OpId id) -> Timer& {
    Timer& t = timers[id];
    if (!t.begin) t = {device.make_event(true), device.make_event(true), phase, 0};
    return t;
  };
  const auto stream = [&](OpId id) { return static_cast<int>(program.op(id).stream); };
  executor.set_observer(
      {[&](Phase phase, const Executor::BoundOp& b) { device.record(*timer(phase, b.id).begin, stream(b.id)); },
       [&](Phase phase, const Executor::BoundOp& b) { device.record(*timer(phase, b.id).end, stream(b.id)); }});
  for (int r = 0; r < repeats; ++r) {
    for (int phase = 0; phase < kPhases; ++phase) executor.run(static_cast<Phase>(phase));
    device.synchronize();
    for (auto& [id, t] : timers) {
      const double seconds = t.end->seconds_since(*t.begin);
      t.least = r == 0 ? seconds : std::min(t.least, seconds);
    }
  }
  executor.set_observer({});
  std::map<std::pair<std::string, std::string>, OpTime> rows;
  for (const auto& [id, t] : timers) {
    const Op& op = program.op(id);
    const std::string phase = label.empty() ? name_of(t.phase) : label;
    OpTime& row = rows[{op.kind->name(), phase}];
    const OpShapes shapes = shapes_of(program, op);
    const Cost cost = op.kind->cost(shapes.context());
    row = {op.kind->name(),        phase,        row.calls + 1, row.seconds + t.least, row.flops + cost.flops,
           row.bytes + cost.bytes, label.empty()};
  }
  std::vector<OpTime> sorted;
  for (auto& [key, row] : rows) sorted.push_back(std::move(row));
  std::sort(sorted.begin(), sorted.end(), [](const OpTime& a, const OpTime& b) { return a.seconds > b.seconds; });
  return sorted;
}

}  // namespace megatron
