// The plans of all ranks as text.
#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

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

/// First and last of numbers in a row, put together where they follow each other: "0-3 8".
std::string intervals_text(const std::vector<std::pair<int64_t, int64_t>>& intervals) {
  std::vector<std::pair<int64_t, int64_t>> runs;
  for (const auto& [first, last] : intervals) {
    if (!runs.empty() && runs.back().second + 1 >= first) {
      runs.back().second = last;
    } else {
      runs.emplace_back(first, last);
    }
  }
  constexpr size_t kShown = 4;
  std::vector<std::string> texts;
  for (const auto& [first, last] : runs) {
    texts.push_back(first == last ? std::to_string(first) : str_cat(first, "-", last));
    if (texts.size() == kShown && runs.size() > kShown) {
      texts.emplace_back("...");
      break;
    }
  }
  return join(texts, " ");
}

/// Where the plans of a whole stage are in the row, its ranks without plans belong to it.
std::string ranks_text(const std::vector<const RankPlan*>& row, const std::vector<RankPlan>& plans) {
  const int64_t in_stage = plans[0].mesh.world_size() / plans[0].stages;
  std::map<int, std::ptrdiff_t> missing;  // plans of a stage that are not in the row
  for (const RankPlan& plan : plans) ++missing[plan.stage];
  for (const RankPlan* plan : row) --missing[plan->stage];
  std::vector<std::pair<int64_t, int64_t>> intervals;
  for (const RankPlan* plan : row) {
    const int64_t begin = plan->stage * in_stage;
    intervals.emplace_back(plan->rank, plan->rank);
    if (missing[plan->stage] == 0) intervals.back() = {begin, begin + in_stage - 1};
  }
  return intervals_text(intervals);
}

std::string stages_text(const std::vector<const RankPlan*>& row) {
  std::vector<std::pair<int64_t, int64_t>> intervals;
  for (const RankPlan* plan : row) intervals.emplace_back(plan->stage + 1, plan->stage + 1);
  return intervals_text(intervals);
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

std::string memory_table(const std::vector<RankPlan>& plans) {
  const auto groups = grouped(plans, [](const RankPlan& a, const RankPlan& b) { return a.same_numbers(b); });
  int64_t most = 0;
  for (const RankPlan& plan : plans) most = std::max(most, plan.memory.allocated());
  Rows rows = {{"ranks", "stage", "layers", "parameters", "weights", "master", "gradients", "optimizer", "other",
                "arena", "kept", "slot sets", "total"}};
  for (const auto& group : groups) {
    const RankPlan& plan = *group[0];
    const MemoryReport& m = plan.memory;
    const bool largest = m.allocated() == most;
    rows.push_back({ranks_text(group, plans), stages_text(group), parts_text(plan),
                    format_count(static_cast<double>(plan.parameters)), bytes_text(m.parameters), bytes_text(m.master),
                    bytes_text(m.gradients), bytes_text(m.optimizer), bytes_text(m.other_state), bytes_text(m.arena),
                    bytes_text(m.activations_saved), slot_sets_text(plan), bytes_text(m.allocated())});
    if (largest) rows.back().push_back("largest");
  }
  return table(rows);
}

std::string traffic_table(const std::vector<RankPlan>& plans, int micro_batches) {
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
  const auto same = [&](const RankPlan& a, const RankPlan& b) { return traffic.at(&a) == traffic.at(&b); };
  for (const auto& group : grouped(plans, same)) {
    std::vector<std::string> row = {ranks_text(group, plans), stages_text(group)};
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
  std::vector<double> loads(static_cast<size_t>(plans[0].stages), 0.0);
  for (const RankPlan& plan : plans) {
    double& load = loads[static_cast<size_t>(plan.stage)];
    load = std::max(load, plan.flops());
  }
  const double mean = std::accumulate(loads.begin(), loads.end(), 0.0) / static_cast<double>(loads.size());
  const auto [least, most] = std::minmax_element(loads.begin(), loads.end());
  return str_cat("bubble       ", percent(simulate_loads(plans, micro_batches).bubble),
                 " of the work of the busiest stage, with the FLOPs of each (", percent(*least / mean), " to ",
                 percent(*most / mean), " of their mean)\n");
}

}  // namespace

std::string describe_ranks(const Config& config, const std::vector<RankPlan>& plans) {
  const int micro_batches = step_sizes(config, data_parallel_size(plans.at(0).mesh)).back();
  std::string text = planned_text(plans) + ", those with the same numbers in one row\n";
  text += memory_table(plans);
  text += traffic_table(plans, micro_batches);
  text += bubble_text(plans, micro_batches);
  return text;
}

}  // namespace megatron
