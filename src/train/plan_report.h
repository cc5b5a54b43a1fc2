// What `megatron plan` says of the programs of a run.
#pragma once

#include <string>
#include <vector>

#include "config/config.h"
#include "train/programs.h"
#include "train/rank_plan.h"

namespace megatron {

/// What `megatron plan` prints: model, memory, FLOPs, decisions.
std::string describe_plan(const Config& config, const TrainPrograms& programs,
                          const std::vector<std::string>& decisions);

/// "embedding 0-3", "12 loss"; "4f-8a" begins with the MLP of layer 4 and ends with the attention of layer 8.
std::string part_text(const StagePart& part);

/// What it prints of all ranks of a mesh beside: a row for every distinct plan, what a step sends, the bubble of the
/// pipeline. `plans` are those of planned_ranks().
std::string describe_ranks(const Config& config, const std::vector<RankPlan>& plans);

}  // namespace megatron
