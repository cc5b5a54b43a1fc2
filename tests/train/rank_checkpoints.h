// Checkpoints of ranks that are threads.
#pragma once

#include <string>

#include "base/error.h"
#include "tests/train/rank_run.h"
#include "train/checkpoint_saver.h"
#include "train/resume.h"

namespace megatron::test {

/// Goes on from what the configuration names.
inline void load_checkpoint(RankRun& run) {
  const ResumeOptions options{run.config(), false, run.data().tokenizer_fingerprint, run.ranks(), &run.engine().pool()};
  const Schedule schedule = resolve_schedule(run.config().optimizer, run.config().training);
  const auto resumed = resume(options, run.engine().train_program(), run.engine().store(), schedule);
  if (!resumed || resumed->weights_only) throw InternalError("the checkpoint was not resumed from");
  run.set_progress(resumed->progress);
}

/// Saves on all ranks, in the foreground.
inline void save_checkpoint(RankRun& run, const std::string& folder, FileOps& ops = FileOps::posix()) {
  SaverOptions options;
  options.folder = folder;
  options.ops = &ops;
  options.store.shard_bytes = 4000;  // several of each rank
  options.store.chunk_bytes = 512;
  CheckpointSaver saver(options, run.ranks(), run.engine().pool());
  CheckpointContent content;
  content.iteration = run.progress().iteration;
  content.tokenizer = run.data().tokenizer_fingerprint;
  content.state = to_state(run.progress());
  run.engine().complete_parameters();
  content.tensors = checkpoint_tensors(run.engine().train_program(), run.engine().store(), true);
  content.texts["resolved.yaml"] = to_yaml(run.config());
  saver.save(content);
  if (saver.committed() != content.iteration) throw InternalError(saver.failure());
}

}  // namespace megatron::test
