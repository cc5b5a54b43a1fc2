// The time of a training step, reckoned without devices from what `MachineProfile` knows of operations and links.
//
// Each phase is run on paper: operations take their streams in list order, an operation of one stream waits for those
// of the other that its plan names, and a collective takes as long as its bytes on the slowest link of its group. The
// phases then go through the pipeline's schedule. Operations take machine.sustained times as long as alone. Not
// reckoned: the slowing of computation by communication beside it, the host, reading of data, evaluation, and saving.
#pragma once

#include <array>
#include <set>
#include <string>
#include <vector>

#include "config/config.h"
#include "parallel/pipeline_schedule.h"
#include "train/machine_profile.h"
#include "train/programs.h"

namespace megatron {

/// One phase of one program on paper.
struct PhaseEstimate {
  double seconds = 0;
  double compute = 0;        ///< operations of the computing stream that are no communication
  double communication = 0;  ///< collectives, hidden or not
};

/// `measured` gets the kinds that the profile has no figure of.
PhaseEstimate estimate_phase(const Plan& plan, Phase phase, bool edge, DType dtype, const MachineProfile& machine,
                             const Mesh& world, std::set<std::string>* unmeasured = nullptr);

/// What one rank of a pipeline stage does in a step, next to the waiting for other stages.
struct StageEstimate {
  std::vector<ChunkTimes> chunks;
  double transfer = 0;       ///< of what the stage hands on, to the next one
  double begin_update = 0;   ///< zeroing, norm, optimizer
  double compute = 0;        ///< of all micro-batches, with begin_update
  double communication = 0;  ///< its collectives, hidden or not
  double exposed = 0;        ///< what it waits for them
  std::set<std::string> unmeasured;
};
StageEstimate estimate_stage(const TrainPrograms& programs, const MachineProfile& machine);

struct StepEstimate {
  double seconds = 0;  ///< of the whole step
  double bubble = 0;   ///< that the busiest stage waits for others
  StageEstimate busiest;
  std::set<std::string> unmeasured;  ///< kinds without a figure
};

/// `stages`: of every stage, in order; `programs`: of any rank.
StepEstimate estimate_step(const TrainPrograms& programs, const std::vector<StageEstimate>& stages);

/// What `plan` prints of it.
std::string describe_estimate(const Config& config, const TrainPrograms& programs, const StepEstimate& estimate,
                              const MachineProfile& machine);

}  // namespace megatron
