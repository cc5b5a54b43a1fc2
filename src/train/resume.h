// Starting from a checkpoint: which one, what changed since, and what may not change.
#pragma once

#include <optional>
#include <string>

#include "base/thread_pool.h"
#include "config/config.h"
#include "optim/lr_schedule.h"
#include "program/executor.h"
#include "train/progress.h"
#include "train/ranks.h"

namespace megatron {

struct ResumeOptions {
  const Config& config;
  bool finetune = false;  ///< weights only
  std::string tokenizer_fingerprint;
  RankContext& ranks;
  ThreadPool* pool = nullptr;  ///< that reads and verifies
};

struct Resumed {
  bool weights_only = false;  ///< progress starts anew
  Progress progress;
  Schedule schedule;  ///< that the run goes on with
};

/// Looks for a checkpoint: in checkpoint.save first (the run's own, so that the same command goes on), then in
/// checkpoint.load. Loads it into `store`, prints what changed in the configuration since, refuses (UsageError) what
/// may not change. Rank 0 chooses, and all ranks load what it chose: a collective call. A checkpoint in which any rank
/// finds damage is passed over for the one before, with a warning; one that is whole but does not fit the model is a
/// DataError. Nothing found: nullopt with a line that says so, or DataError with exit_on_missing_checkpoint.
std::optional<Resumed> resume(const ResumeOptions& options, const Program& program, Store& store,
                              const Schedule& configured);

}  // namespace megatron
