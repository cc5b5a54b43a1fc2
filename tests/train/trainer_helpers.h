// What the tests of the training loop share: tiny configurations as settings, steps on an engine, runs in scratch
// folders.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "config/load.h"
#include "train/data_setup.h"
#include "train/engine.h"

namespace megatron::test {

/// "section.key" -> YAML value.
using Settings = std::map<std::string, std::string>;

/// Two layers of width 16 on made-up tokens, dropout 0.1, AdamW; `changes` win.
Settings tiny(const Settings& changes = {});
LoadedConfig load_settings(const Settings& settings, int64_t world_size = 1);
/// The same as the text of a file.
std::string yaml_text(const Settings& settings);

/// Bytes of tensors by name.
using Weights = std::map<std::string, std::vector<std::byte>>;

struct StepRecord {
  double loss = 0, grad_norm = 0;
  bool skipped = false;
  bool operator==(const StepRecord&) const = default;
};

/// An engine with its data, stepping as the trainer does, without files.
class EngineRun {
 public:
  explicit EngineRun(const Settings& settings);

  TrainEngine& engine() { return *engine_; }
  const Config& config() const { return loaded_.config; }
  const RunData& data() const { return data_; }
  /// Micro-batches of global step `step` (from 1).
  std::vector<Batch> batches(int64_t step) const;
  StepRecord step(int64_t step) { return step_on(batches(step), step); }
  StepRecord step_on(const std::vector<Batch>& batches, int64_t step);
  std::vector<StepRecord> steps(int64_t count);
  /// Parameters and optimizer state.
  Weights state() const;

 private:
  LoadedConfig loaded_;
  RunData data_;
  std::unique_ptr<TrainEngine> engine_;
  int64_t updates_ = 0;
};

/// Names whose bytes differ, or that only one side has; empty when all is bitwise equal.
std::string difference(const Weights& a, const Weights& b);

/// A folder below the system's temporary folder, removed at the end.
class Scratch {
 public:
  Scratch();
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  std::string path(const std::string& name) const { return (dir_ / name).string(); }

 private:
  std::filesystem::path dir_;
};

/// One line of metrics.jsonl, as far as tests look at it; NaN where the line has null.
struct MetricsLine {
  int64_t iteration = 0;
  double lm_loss = 0, grad_norm = 0, learning_rate = 0, loss_scale = 0;
  bool skipped = false;
  int64_t skipped_iterations = 0, consumed_samples = 0;
  std::optional<double> valid_lm_loss, test_lm_loss;
  std::optional<int64_t> peak_memory_bytes;
};
/// Of a run folder, by iteration; a repeated one: the last line counts.
std::map<int64_t, MetricsLine> read_metrics(const std::string& run_dir);

/// All tensors of one checkpoint in `folder`, or of the newest.
Weights checkpoint_weights(const std::string& folder, std::optional<int64_t> iteration = {});

}  // namespace megatron::test
