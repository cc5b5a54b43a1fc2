// What `megatron plan` says of the programs of a run.
#pragma once

#include <string>
#include <vector>

#include "config/config.h"
#include "train/programs.h"

namespace megatron {

/// What `megatron plan` prints: model, memory, FLOPs, decisions.
std::string describe_plan(const Config& config, const TrainPrograms& programs,
                          const std::vector<std::string>& decisions);

}  // namespace megatron
