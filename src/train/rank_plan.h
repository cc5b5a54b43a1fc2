// What is planned for one rank, in numbers: memory, work, and every collective. Small, so that many ranks can be held
// side by side where their programs cannot.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/config.h"
#include "config/stage_split.h"
#include "program/planned_call.h"
#include "train/programs.h"

namespace megatron {

/// One operation that communicates.
struct OpTraffic {
  std::string comm;   ///< communicator: a mesh axis, or one of pipeline stages
  std::string what;   ///< "decoder.layers.3.mlp, all_gather"
  bool edge = false;  ///< runs once per step
  std::vector<PlannedCall> calls;
};

/// A value that crosses from one part of the model to the next, or its gradient.
struct BoundaryPlan {
  std::string name, type;  ///< type: dtype, global shape, placement
  DType dtype = DType::kF32;
  Dims local_shape;
  int64_t bytes() const { return local_shape.numel() * size_of(dtype); }
};

/// One chunk's program, forward alone for evaluation.
struct ChunkPlan {
  std::array<std::vector<OpTraffic>, kPhases> phases;
  std::array<double, kPhases> flops{};
  int slot_sets = 1;
  std::optional<BoundaryPlan> received, sent;                    ///< forward
  std::optional<BoundaryPlan> received_gradient, sent_gradient;  ///< of `sent`, and of `received`
};

struct RankPlan {
  int64_t rank = 0;
  Mesh mesh;  ///< of the whole run
  int stage = 0, stages = 1;
  ScheduleKind schedule{};
  int eval_micro_batches = 1;
  std::vector<StagePart> parts;  ///< of the model, by chunk
  int64_t parameters = 0;        ///< elements that the rank holds
  MemoryReport memory;
  std::vector<ChunkPlan> train, eval;
  std::vector<OpTraffic> begin, update;
  std::vector<OpTraffic> gather;  ///< before an evaluation or a save, where updates leave parameters in blocks

  /// Of one micro-batch.
  double flops() const;
  bool same_numbers(const RankPlan& other) const;
};

RankPlan rank_plan(const Config& config, const TrainPrograms& programs);

/// What a rank does on one communicator in one training step, begin to update.
struct StepTraffic {
  std::string comm;   ///< mesh axis; "pp" is what goes forward and sums over stages, kPipelineBackward, kPipelineEnds
  int64_t calls = 0;  ///< collectives, sends and receives
  double wire_bytes = 0;  ///< sent by the rank (planned_call.h)

  bool operator==(const StepTraffic&) const = default;
};
/// In the order of the mesh, communicators without calls left out.
std::vector<StepTraffic> step_traffic(const RankPlan& plan, int micro_batches);
std::vector<StepTraffic> step_traffic(const Config& config, const TrainPrograms& programs, int micro_batches);

/// Ranks of the communicator that the rank belongs to, in its order.
std::vector<int> members_of(const RankPlan& plan, const std::string& comm);

/// Does every member of each communicator within the stage call the same as this rank, when the same program runs on
/// its blocks? Returns the number of calls that were compared; InternalError names the operation and both members.
int64_t check_members(const TrainPrograms& programs);

}  // namespace megatron
