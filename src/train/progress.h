// The host-side state of a run: what a checkpoint keeps besides tensors.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "checkpoint/manifest.h"
#include "checkpoint/reader.h"
#include "optim/loss_scaler.h"
#include "optim/lr_schedule.h"

namespace megatron {

struct Progress {
  int64_t iteration = 0;         ///< last complete one
  int64_t consumed_samples = 0;  ///< of the training set; the data cursor
  int64_t consumed_tokens = 0;
  int64_t skipped_iterations = 0;
  int64_t updates = 0;  ///< optimizer updates that were made
  ScheduleState schedule;
  LossScalerState scaler;
};

std::map<std::string, MetaValue> to_state(const Progress& progress);
Progress read_progress(const CheckpointReader& reader);

}  // namespace megatron
