// A whole training step and an evaluation of all ranks, proven on paper before anything runs.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "comm/paper_run.h"
#include "config/config.h"
#include "parallel/pipeline_schedule.h"
#include "train/rank_plan.h"

namespace megatron {

/// Up to so many ranks each has a plan of its own. Of more, those along pp have, and along further axes (in the mesh's
/// order) as long as they are no more than this; along the other axes the first rank stands for all: they run the same
/// operations on blocks of other sizes, and the first has the largest.
inline constexpr int64_t kAllRanksUpTo = 64;
/// In ascending order.
std::vector<int64_t> planned_ranks(const Config& config, int64_t world_size);
/// "all 8 ranks", "32 of 1024 ranks (all along cp, pp; along tp, dp the first, whose shares are the largest)".
std::string planned_text(const std::vector<RankPlan>& plans);

/// Plans of `ranks`. With `prove` their programs are compared with those of the other members of their communicators
/// (check_members), and where ranks stand for others, that of the first of each stage with that of the last.
struct RankPlans {
  std::vector<RankPlan> plans;
  int64_t member_calls = 0;  ///< that were compared
};
/// `look` sees the programs of each before they are given up.
RankPlans plan_ranks(const Config& config, int64_t vocab_size, int64_t world_size, const std::vector<int64_t>& ranks,
                     bool prove, const std::function<void(const TrainPrograms&)>& look = {});

/// Ranks `rank` and `other` of one stage run the same operations in the same order. InternalError where not.
void require_same_programs(const TrainPrograms& a, const TrainPrograms& b, int64_t rank, int64_t other);

/// The pipeline schedule that a rank of `plan` takes part in.
PipelineSchedule schedule_of(const RankPlan& plan, int micro_batches, bool backward);
/// Numbers of micro-batches that steps of the configuration have.
std::vector<int> step_sizes(const Config& config, int64_t data_parallel_size);

/// Bubble of a step: stages' work in proportion to their FLOPs.
PipelineReport simulate_loads(const std::vector<RankPlan>& plans, int micro_batches);

/// What one stage hands on is what the next expects, forward and backward, in training and evaluation: name, type,
/// local shape. Returns the number of pairs; InternalError names both ranks.
int64_t check_boundaries(const std::vector<RankPlan>& plans);

/// All collectives and transfers of every plan in their order: the step (begin, `step`, update), and after it an
/// evaluation. `plans` must outlive the result.
PaperRun make_paper_run(const std::vector<RankPlan>& plans, const PipelineSchedule& step,
                        const PipelineSchedule& evaluation);

struct SimulationReport {
  int64_t ranks = 0;   ///< with plans
  std::string covers;  ///< planned_text()
  int stages = 1;
  std::vector<int> micro_batches;
  int64_t instructions = 0, boundaries = 0, member_calls = 0;
  PaperReport paper;
};
/// InternalError with both sides where something does not fit.
SimulationReport prove(const Config& config, const RankPlans& plans);
std::string describe(const SimulationReport& report);

}  // namespace megatron
