// What one rank of a mesh does in a run, without files; the ranks are threads.
#pragma once

#include <cmath>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "base/error.h"
#include "comm/thread_world.h"
#include "config/batch_schedule.h"
#include "optim/lr_schedule.h"
#include "tests/train/trainer_helpers.h"
#include "train/evaluate.h"
#include "train/model_state.h"
#include "train/step_pipeline.h"

namespace megatron::test {

struct MeshCase {
  int ranks, tp;
  bool sp;
  int cp = 1;
  const char* cp_comm_type = "p2p";
};

inline Settings on_mesh(Settings settings, const MeshCase& mesh) {
  settings["parallel.tensor_model_parallel_size"] = std::to_string(mesh.tp);
  if (mesh.sp) settings["parallel.sequence_parallel"] = "true";
  settings["parallel.context_parallel_size"] = std::to_string(mesh.cp);
  settings["parallel.cp_comm_type"] = std::string("[") + mesh.cp_comm_type + "]";
  return settings;
}

/// fp64, four micro-batches, clipping that bites; batches that four data-parallel ranks can share.
inline Settings exact(const Settings& changes) {
  Settings settings = tiny({{"precision.params_dtype", "fp64"},
                            {"model.num_query_groups", "2"},
                            {"training.micro_batch_size", "1"},
                            {"training.global_batch_size", "8"},
                            {"optimizer.clip_grad", "0.5"},
                            {"optimizer.lr", "0.003"}});
  for (const auto& [key, value] : changes) settings[key] = value;
  return settings;
}

/// What one rank does in a run, without files.
class RankRun {
 public:
  /// Changes the programs before they get memory (faults).
  using Change = std::function<void(const Config&, TrainPrograms&)>;

  RankRun(const Settings& settings, World& world, const Change& change = {})
      : config_(load_settings(settings, world.size()).config),
        data_(open_data(config_)),
        ranks_(std::make_shared<RankContext>(config_, world)),
        engine_(config_, programs(change), ranks_) {
    data_.batch_options = ranks_->share_sequences(data_.batch_options);
    initialize_parameters(engine_.train_program(), engine_.store(), 77, engine_.pool());
  }

  std::vector<double> train(int64_t iterations) {
    std::vector<double> numbers;
    for (const StepMetrics& metrics : advance(iterations)) {
      numbers.insert(numbers.end(), {metrics.lm_loss.value(), metrics.grad_norm.value()});
    }
    for (const int64_t samples : {5, 8}) {  // not a whole number of micro-batches, and one
      numbers.push_back(evaluate(engine_, data_.splits.valid, data_.batch_options, samples));
    }
    return numbers;
  }

  /// The next iterations after progress().
  std::vector<StepMetrics> advance(int64_t iterations) {
    const LossScaler scaler = make_loss_scaler(config_.precision);
    if (progress_.iteration == 0) progress_.scaler = initial_state(scaler);
    StepPipeline pipeline(config_, engine_, resolve_schedule(config_.optimizer, config_.training), scaler, progress_);
    BatchLoader loader(data_.splits.train, data_.batch_options, share(), progress_.consumed_samples, 2);
    std::vector<StepMetrics> steps;
    for (int64_t i = 0; i < iterations; ++i) {
      std::vector<Batch> batches;
      const int64_t samples = batch_size_at(batch_schedule(config_), pipeline.progress().consumed_samples);
      for (int64_t m = 0; m < micro_batches(samples); ++m) batches.push_back(loader.next());
      pipeline.submit(std::move(batches), 0);
      steps.push_back(pipeline.settle());
    }
    progress_ = pipeline.progress();
    return steps;
  }

  /// F and B of the first global batch.
  void accumulate_first(const std::function<void(std::vector<Batch>&)>& change = {}) {
    BatchLoader loader(data_.splits.train, data_.batch_options, share(), 0, 2);
    std::vector<Batch> batches;
    for (int64_t m = 0; m < micro_batches(config_.training.global_batch_size); ++m) batches.push_back(loader.next());
    if (change) change(batches);
    engine_.begin_step();
    engine_.accumulate(batches, std::vector<double>(batches.size(), 1.0 / 96), 1);
  }

  const Config& config() const { return config_; }
  TrainEngine& engine() { return engine_; }
  RankContext& ranks() { return *ranks_; }
  const RunData& data() const { return data_; }
  /// After the last iteration.
  const Progress& progress() const { return progress_; }
  void set_progress(const Progress& progress) { progress_ = progress; }
  Batch first_batch() const { return make_batch(*data_.splits.train, samples_of(share(), 0, 0), data_.batch_options); }

 private:
  TrainPrograms programs(const Change& change) const {
    TrainPrograms programs = make_train_programs(config_, data_.vocab_size, ranks_->parallel());
    if (change) change(config_, programs);
    return programs;
  }
  SampleShare share() const {
    return data_parallel_share(config_.training.micro_batch_size, ranks_->data_rank(), ranks_->data_size());
  }
  int64_t micro_batches(int64_t samples) const {
    return samples / (config_.training.micro_batch_size * ranks_->data_size());
  }

  Config config_;
  RunData data_;
  std::shared_ptr<RankContext> ranks_;
  TrainEngine engine_;
  Progress progress_;
};

/// Losses, norms and evaluations; InternalError when ranks tell different things.
inline std::vector<double> train_ranks(const Settings& settings, int ranks, int64_t iterations,
                                       const RankRun::Change& change = {}) {
  std::vector<std::vector<double>> told(static_cast<size_t>(ranks));
  run_thread_ranks(ranks, [&](World& world) {
    told[static_cast<size_t>(world.rank())] = RankRun(settings, world, change).train(iterations);
  });
  for (const std::vector<double>& numbers : told) {
    if (numbers != told[0]) throw InternalError("ranks report different numbers");
  }
  return told[0];
}
inline std::vector<double> train_on(const Settings& settings, const MeshCase& mesh, int64_t iterations) {
  return train_ranks(on_mesh(settings, mesh), mesh.ranks, iterations);
}

inline double worst_difference(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return INFINITY;
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i])) return INFINITY;
    worst = std::max(worst, std::abs(a[i] - b[i]) / std::abs(b[i]));
  }
  return worst;
}

}  // namespace megatron::test
