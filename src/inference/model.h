// A trained model as a checkpoint holds it, ready to be run.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "checkpoint/model_source.h"
#include "config/config.h"
#include "config/stage_split.h"
#include "models/model_spec.h"
#include "parallel/parallel_context.h"
#include "program/executor.h"
#include "tokenizer/tokenizer.h"

namespace megatron {

/// The ranks that share a model; one by default. Axes tp, without sequence parallelism, and pp.
struct InferenceWorld {
  ParallelContext parallel;
  std::map<std::string, Comm*> comms;  ///< by mesh axis; must outlive the model
  std::shared_ptr<Device> device;      ///< that `comms` were made for; null: what run.device names
};

/// Reads this rank's part of the parameters of `program` into `store`, in the program's element type.
void load_parameters(const ModelSource& source, const Program& program, Store& store);

/// Configuration, tokenizer and weights of one checkpoint. The tokenizer comes from the checkpoint's own files.
class InferenceModel {
 public:
  /// `load`: a folder of checkpoints (the newest complete one is taken, or `step`), one iter_* folder, a run folder, a
  /// Hugging Face folder, or a GGUF file. `run` gives device and threads, `world` this rank's place, whatever mesh the
  /// checkpoint was written on: all ranks make the same calls. DataError where there is no checkpoint, UsageError for
  /// more pipeline stages than layers.
  InferenceModel(const std::string& load, std::optional<int64_t> step, const RunConfig& run, InferenceWorld world = {});

  /// Section `parallel` is that of `world`.
  const Config& config() const { return config_; }
  const InferenceWorld& world() const { return world_; }
  const ModelSpec& spec() const { return spec_; }
  /// The layers of this rank's pipeline stage: as many as the others have, or one more or less.
  const StagePart& part() const { return part_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  /// Ids of a prompt. Models of other programs expect what their tokenizer puts around it, a begin token for example;
  /// training here puts nothing.
  std::vector<TokenId> encode_prompt(const std::string& text) const {
    return source_.foreign() ? tokenizer_->encode_with_special_tokens(text) : tokenizer_->encode(text);
  }
  /// The iter_* folder, or another program's folder or file.
  const std::string& folder() const { return source_.path(); }
  Device& device() { return *device_; }
  ThreadPool& pool() { return *pool_; }

  /// The same of this model.
  void load_parameters(const Program& program, Store& store) const {
    megatron::load_parameters(source_, program, store);
  }

 private:
  ModelSource source_;
  InferenceWorld world_;
  Config config_;
  std::unique_ptr<Tokenizer> tokenizer_;
  ModelSpec spec_;
  StagePart part_;
  std::shared_ptr<Device> device_;
  std::unique_ptr<ThreadPool> pool_;
};

}  // namespace megatron
