// The plans of all ranks as text.
#include <algorithm>
#include <map>
#include <set>

#include "base/strings.h"
#include "train/plan_report.h"
#include "train/plan_simulation.h"

namespace megatron {
namespace {

using Rows = std::vector<std::vector<std::string>>;

/// Columns as wide as they need, the first to the left, the others to the right.
std::string table(const Rows& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()), 0);
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line = "  ";
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string gap(widths[i] - row[i].size(), ' ');
      line += i == 0 ? row[i] + gap : "  " + gap + row[i];
    }
    text += line + "\n";
  }
  return text;
}

std::string bytes_text(int64_t bytes) {
  return format_bytes(static_cast<double>(bytes));
}

/// "0-3 8": of `plans`, each of which stands for `each` ranks that follow it.
std::string ranks_text(const std::vector<const RankPlan*>& plans, int64_t each) {
  std::vector<std::string> runs;
  for (size_t i = 0; i < plans.size();) {
    size_t end = i + 1;
    while (end < plans.size() && plans[end]->rank == plans[end - 1]->rank + each) ++end;
    const int64_t first = plans[i]->rank, last = plans[end - 1]->rank + each - 1;
    runs.push_back(first == last ? std::to_string(first) : str_cat(first, "-", last));
    i = end;
  }
  constexpr size_t kShown = 4;
  if (runs.size() > kShown) {
    runs.resize(kShown);
    runs.push_back("...");
  }
  return join(runs, " ");
}

/// Of many only the first and the last.
std::string joined(std::vector<std::string> texts, const std::string& between) {
  if (texts.size() > 4) texts = {texts.front(), "...", texts.back()};
  return join(texts, between);
}

std::string parts_text(const RankPlan& plan) {
  std::vector<std::string> texts;
  for (const StagePart& part : plan.parts) texts.push_back(part_text(part));
  return joined(texts, ", ");
}

std::string slot_sets_text(const RankPlan& plan) {
  std::vector<std::string> texts;
  for (const ChunkPlan& chunk : plan.train) texts.push_back(std::to_string(chunk.slot_sets));
  return joined(texts, " + ");
}

/// Plans with the same numbers, in the order of their first rank.
template <typename Same>
std::vector<std::vector<const RankPlan*>> grouped(const std::vector<RankPlan>& plans, const Same& same) {
  std::vector<std::vector<const RankPlan*>> groups;
  for (const RankPlan& plan : plans) {
    const auto found =
        std::find_if(groups.begin(), groups.end(), [&](const auto& group) { return same(*group[0], plan); });
    if (found == groups.end()) {
      groups.push_back({&plan});
    } else {
      found->push_back(&plan);
    }
  }
  return groups;
}

std::string memory_table(const std::vector<RankPlan>& plans, int64_t each) {
  const auto groups = grouped(plans, [](const RankPlan& a, const RankPlan& b) { return a.same_numbers(b); });
  int64_t most = 0;
  for (const RankPlan& plan : plans) most = std::max(most, plan.memory.allocated());
  Rows rows = {{"ranks", "stage", "layers", "parameters", "weights", "master", "gradients", "optimizer", "other",
                "arena", "kept", "slot sets", "total"}};
  for (const auto& group : groups) {
    const RankPlan& plan = *group[0];
    const MemoryReport& m = plan.memory;
    const bool largest = m.allocated() == most;
    rows.push_back({ranks_text(group, each), std::to_string(plan.stage + 1), parts_text(plan),
                    format_count(static_cast<double>(plan.parameters)), bytes_text(m.parameters), bytes_text(m.master),
                    bytes_text(m.gradients), bytes_text(m.optimizer), bytes_text(m.other_state), bytes_text(m.arena),
                    bytes_text(m.activations_saved), slot_sets_text(plan), bytes_text(m.allocated())});
    if (largest) rows.back().push_back("largest");
  }
  return table(rows);
}

std::string traffic_table(const std::vector<RankPlan>& plans, int64_t each, int micro_batches) {
  std::map<const RankPlan*, std::vector<StepTraffic>> traffic;
  std::vector<std::string> comms;  // in the order in which they come up
  for (const RankPlan& plan : plans) {
    traffic[&plan] = step_traffic(plan, micro_batches);
    for (const StepTraffic& one : traffic[&plan]) {
      if (std::find(comms.begin(), comms.end(), one.comm) == comms.end()) comms.push_back(one.comm);
    }
  }
  if (comms.empty()) return "";
  Rows rows = {{"ranks", "stage"}};
  for (const std::string& comm : comms) rows[0].insert(rows[0].end(), {comm + " calls", "sent"});
  const auto same = [&](const RankPlan& a, const RankPlan& b) {
    return a.stage == b.stage && traffic.at(&a) == traffic.at(&b);
  };
  for (const auto& group : grouped(plans, same)) {
    std::vector<std::string> row = {ranks_text(group, each), std::to_string(group[0]->stage + 1)};
    const std::vector<StepTraffic>& own = traffic.at(group[0]);
    for (const std::string& comm : comms) {
      const auto found = std::find_if(own.begin(), own.end(), [&](const StepTraffic& t) { return t.comm == comm; });
      row.push_back(found == own.end() ? "-" : std::to_string(found->calls));
      row.push_back(found == own.end() ? "-" : format_bytes(found->wire_bytes));
    }
    rows.push_back(std::move(row));
  }
  return "communication of one step: calls of a rank on each communicator, and what it sends\n" + table(rows);
}

std::string percent(double fraction) {
  return str_cat(static_cast<double>(static_cast<int64_t>(fraction * 1000 + 0.5)) / 10.0, " %");
}

std::string bubble_text(const std::vector<RankPlan>& plans, int micro_batches) {
  if (plans[0].stages == 1) return "";
  double least = plans[0].flops(), most = least, sum = 0;
  for (const RankPlan& plan : plans) {
    least = std::min(least, plan.flops());
    most = std::max(most, plan.flops());
    sum += plan.flops();
  }
  const double mean = sum / static_cast<double>(plans.size());
  return str_cat("bubble       ", percent(simulate_loads(plans, micro_batches).bubble),
                 " of the work of the busiest stage, with the FLOPs of each (", percent(least / mean), " to ",
                 percent(most / mean), " of their mean)\n");
}

}  // namespace

std::string describe_ranks(const Config& config, const std::vector<RankPlan>& plans) {
  const RankPlan& first = plans.at(0);
  const int64_t world = first.mesh.world_size(), each = world / std::ssize(plans);
  const int micro_batches = step_sizes(config, data_parallel_size(first.mesh)).back();
  std::string text = each == 1 ? str_cat("all ", world, " ranks, those with the same numbers in one row\n")
                               : str_cat("all ", world, " ranks: the first of each stage stands for the ", each,
                                         " of the stage, whose shares are as large or smaller\n");
  text += memory_table(plans, each);
  text += traffic_table(plans, each, micro_batches);
  text += bubble_text(plans, micro_batches);
  return text;
}

}  // namespace megatron
