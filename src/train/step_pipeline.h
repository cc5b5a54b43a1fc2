// Steps on their way: the device works on one step while the host prepares the next, and results are read one step
// late.
//
// The host assumes that a step in flight will be good. Where it was skipped (gradients not finite), the device has
// halted, so that the steps behind it changed nothing; they are given again with the learning rate and loss scale that
// hold now. Results do not depend on how many steps were in flight.
#pragma once

#include <chrono>
#include <deque>
#include <string>
#include <vector>

#include "config/batch_schedule.h"
#include "config/config.h"
#include "data/batch.h"
#include "optim/loss_scaler.h"
#include "optim/lr_schedule.h"
#include "train/engine.h"
#include "train/metrics.h"
#include "train/progress.h"

namespace megatron {

class StepPipeline {
 public:
  /// `start`: after the last complete iteration.
  StepPipeline(const Config& config, TrainEngine& engine, const Schedule& schedule, const LossScaler& scaler,
               const Progress& start);

  /// Steps that may stay in flight from one submit() to the next: 0 where the device finishes before calls return, or
  /// where the run must end right after a bad step.
  size_t depth() const { return depth_; }
  void set_depth(size_t depth) { depth_ = depth; }
  size_t in_flight() const { return steps_.size(); }
  /// Of the last step submitted.
  int64_t iteration() const { return ahead_.iteration; }

  /// Samples of the next iteration's global batch.
  int64_t next_batch_size() const { return batch_size_at(batch_schedule_, ahead_.consumed_samples); }
  /// Is that another size than the last one's?
  bool batch_size_changes() const { return last_batch_size_ > 0 && next_batch_size() != last_batch_size_; }

  /// Enqueues the next iteration on its micro-batches (this rank's parts of them), for which the loader was waited for
  /// `data_wait` seconds. No more than depth() steps may be in flight before.
  void submit(std::vector<Batch> batches, double data_wait);
  /// Waits for the oldest step and says what it did.
  StepMetrics settle();

  /// After the last step that was settled.
  const Progress& progress() const { return progress_; }
  /// Why the run must end after the last step that was settled; "" when it need not.
  const std::string& fatal() const { return fatal_; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Step {
    std::vector<Batch> batches;
    int64_t batch_size = 0;   ///< samples of the global batch
    double weights = 0;       ///< sum of loss weights of the global batch: the divisor of the loss
    bool computed = true;     ///< false: on the list of iterations to skip
    double loss_scale = 1.0;  ///< that it was enqueued with
    double data_wait = 0;
    StepMetrics metrics;
  };

  void enqueue(Step& step);
  double seed_of(const Step& step, const Batch& batch) const;
  double total_weight(const std::vector<Batch>& batches) const;
  /// State after one more step.
  Progress advance(Progress progress, const Step& step, bool skipped) const;
  void report_non_finite(const Step& step);
  std::string first_non_finite(const Step& step);
  void finish_metrics(StepMetrics& metrics, double data_wait);

  const Config& config_;
  TrainEngine& engine_;
  const Schedule schedule_;
  const LossScaler scaler_;
  const BatchSchedule batch_schedule_;
  int64_t last_batch_size_ = 0;  ///< 0: none yet
  size_t depth_ = 0;
  Progress progress_, ahead_;
  std::deque<Step> steps_;
  Clock::time_point last_settled_ = Clock::now();
  std::string fatal_;
};

}  // namespace megatron
