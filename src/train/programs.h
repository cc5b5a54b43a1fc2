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
#include "program/plan.h"

namespace megatron {

struct TrainPrograms {
  ModelSpec spec;
  std::vector<ParamGroup> groups;
  Plan begin;   ///< zeroes gradients and sums
  Plan train;   ///< F, B of one micro-batch
  Plan eval;    ///< F of one micro-batch, without dropout
  Plan update;  ///< norm, clipping, optimizer
  Plan gather;  ///< whole parameters from the blocks that ranks updated, where the first forward would do it

  /// The largest of the plans' arenas: they never run at the same time, so they share one.
  int64_t arena_bytes() const;
};

/// Traces, differentiates, applies recomputation and packs. `vocab_size`: true number of ids. A micro-batch of the
/// programs is that of all data-parallel ranks together.
TrainPrograms make_train_programs(const Config& config, int64_t vocab_size, const ParallelContext& parallel);

/// The training program before it is packed.
Program make_loss_program(const Config& config, const ModelSpec& spec, const ParallelContext& parallel, bool training);

/// Values of a training plan (roots) that live from the forward to the backward.
std::set<ValueId> saved_for_backward(const Plan& plan);

/// Memory of one rank by purpose, in bytes. `allocated()` is what the run takes from the device.
struct MemoryReport {
  int64_t parameters = 0, master = 0, gradients = 0, optimizer = 0, other_state = 0;
  int64_t arena = 0;              ///< activations, temporary values, inputs; shared by all programs
  int64_t activations_saved = 0;  ///< part of the arena alive at the end of the forward
  int64_t allocated() const { return parameters + master + gradients + optimizer + other_state + arena; }
};
MemoryReport memory_report(const TrainPrograms& programs);

/// What `megatron plan` prints: model, memory, FLOPs, decisions.
std::string describe_plan(const Config& config, const TrainPrograms& programs,
                          const std::vector<std::string>& decisions);

}  // namespace megatron
