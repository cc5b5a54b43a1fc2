// All programs of a training run, planned before anything is allocated.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "config/config.h"
#include "data/batch.h"
#include "models/model_spec.h"
#include "optim/lr_schedule.h"
#include "optim/param_groups.h"
#include "parallel/parallel_context.h"
#include "parallel/pipeline_schedule.h"
#include "program/plan.h"

namespace megatron {

/// What one rank runs. Without a pipeline there is one chunk, the whole model.
struct TrainPrograms {
  ModelSpec spec;
  Mesh mesh;                   ///< of the whole run; the programs are those of the rank's pipeline stage
  ScheduleKind schedule{};     ///< of micro-batches
  int micro_batches = 1;       ///< of one step
  int eval_micro_batches = 1;  ///< that evaluation gives to the pipeline at once
  std::vector<ParamGroup> groups;
  /// Parameters, gradients and sums of all chunks; without a pipeline the training program itself.
  Program held;
  Plan begin;               ///< zeroes gradients and sums
  std::vector<Plan> train;  ///< per chunk: F, B (and W) of one micro-batch
  std::vector<Plan> eval;   ///< per chunk: F of one micro-batch, without dropout
  Plan update;              ///< norm, clipping, optimizer
  Plan gather;  ///< whole parameters from the blocks that ranks updated, where the first forward would do it

  /// All plans, for what looks at memory and operations.
  std::vector<const Plan*> plans() const;
  /// The largest of what the programs take: they never run at the same time, but the chunks of a pipeline do, whose
  /// slot sets lie side by side.
  int64_t arena_bytes() const;
};

/// Bytes of plans whose phases alternate, and where the slot sets of plan `i` begin in them.
int64_t arena_bytes(const std::vector<Plan>& plans);
int64_t kept_offset(const std::vector<Plan>& plans, size_t i);

/// The order of `micro_batches` on the pipeline of `programs`, all stages.
PipelineSchedule schedule_of(const TrainPrograms& programs, int micro_batches, bool backward);

/// Traces, differentiates, applies recomputation and packs. `vocab_size`: true number of ids. A micro-batch of the
/// programs is that of all data-parallel ranks together.
TrainPrograms make_train_programs(const Config& config, int64_t vocab_size, const ParallelContext& parallel);

/// The training or evaluation program of chunk `chunk` of the rank's stage, before it is packed.
Program make_loss_program(const Config& config, const ModelSpec& spec, const ParallelContext& parallel, bool training,
                          int chunk = 0);

/// Values of a training plan (roots) that live from the forward to the backward.
std::set<ValueId> saved_for_backward(const Plan& plan);

/// Memory of one rank by purpose, in bytes. `allocated()` is what the run takes from the device.
struct MemoryReport {
  int64_t parameters = 0, master = 0, gradients = 0, optimizer = 0, other_state = 0;
  int64_t arena = 0;              ///< activations, temporary values, inputs; shared by all programs
  int64_t activations_saved = 0;  ///< part of the arena alive at the end of the forward
  int64_t allocated() const { return parameters + master + gradients + optimizer + other_state + arena; }
  bool operator==(const MemoryReport&) const = default;
};
MemoryReport memory_report(const TrainPrograms& programs);

}  // namespace megatron
