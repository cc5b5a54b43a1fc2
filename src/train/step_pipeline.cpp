#include "train/step_pipeline.h"

#include <algorithm>

#include "base/check.h"
#include "base/log.h"
#include "base/strings.h"
#include "device/profile_range.h"

namespace megatron {

StepPipeline::StepPipeline(const Config& config, TrainEngine& engine, const Schedule& schedule,
                           const LossScaler& scaler, const Progress& start)
    : config_(config),
      engine_(engine),
      schedule_(schedule),
      scaler_(scaler),
      batch_schedule_(batch_schedule(config)),
      progress_(start),
      ahead_(start) {
  depth_ = engine.device().asynchronous() && !config.training.check_for_nan_in_loss_and_grad ? 1 : 0;
}

void StepPipeline::submit(std::vector<Batch> batches, double data_wait) {
  MEGATRON_CHECK(steps_.size() <= depth_, "settle() before the next submit()");
  if (steps_.empty())
    last_settled_ =
        Clock::now() - std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(data_wait));
  Step step;
  step.data_wait = data_wait;
  step.batch_size = last_batch_size_ = next_batch_size();
  step.weights = std::max(total_weight(batches), 1.0);
  step.batches = std::move(batches);
  const auto& skip = config_.training.iterations_to_skip;
  step.computed = std::find(skip.begin(), skip.end(), ahead_.iteration + 1) == skip.end();
  steps_.push_back(std::move(step));
  enqueue(steps_.back());
}

void StepPipeline::enqueue(Step& step) {
  StepMetrics& m = step.metrics;
  m.iteration = ahead_.iteration + 1;
  m.batch_size = step.batch_size;
  m.loss_scale = step.loss_scale = ahead_.scaler.scale;
  m.weight_decay = weight_decay(schedule_, ahead_.schedule.num_steps);
  m.learning_rate = learning_rate(schedule_, ahead_.schedule.num_steps);
  if (step.computed) {
    const ProfileRange range(str_cat("iteration ", m.iteration));
    engine_.begin_step();
    std::vector<double> seeds;
    for (const Batch& batch : step.batches) seeds.push_back(seed_of(step, batch));
    engine_.accumulate(step.batches, seeds, m.iteration);
    UpdateInputs in;
    for (const ParamGroup& group : engine_.programs().groups) {
      in.learning_rates.push_back(group_step(schedule_, group, ahead_.schedule.num_steps).learning_rate);
    }
    in.weight_decay = m.weight_decay;
    in.loss_scale = step.loss_scale;
    in.update_count = ahead_.updates + 1;
    engine_.update(in);
  }
  ahead_ = advance(ahead_, step, !step.computed);
}

/// Divisor of the loss of one micro-batch: the weighted tokens of the whole global batch, or with
/// calculate_per_token_loss: false the mean of the means of all ranks' micro-batches.
double StepPipeline::seed_of(const Step& step, const Batch& batch) const {
  if (config_.training.calculate_per_token_loss) return step.loss_scale / step.weights;
  const auto count = static_cast<double>(engine_.ranks().data_size() * std::ssize(step.batches));
  return step.loss_scale / (std::max(batch.loss_weight_sum, 1.0) * count);
}

/// Of the global batch. Only weights that depend on the tokens must be asked for.
double StepPipeline::total_weight(const std::vector<Batch>& batches) const {
  double weight = 0;
  for (const Batch& batch : batches) weight += batch.loss_weight_sum;
  if (config_.data.eod_mask_loss) return engine_.ranks().sum_over_data({weight})[0];
  return weight * static_cast<double>(engine_.ranks().data_size());
}

Progress StepPipeline::advance(Progress progress, const Step& step, bool skipped) const {
  const int64_t samples = step.batch_size;
  ++progress.iteration;
  progress.consumed_samples += samples;
  progress.consumed_tokens += samples * config_.model.seq_length;
  if (skipped) ++progress.skipped_iterations;
  if (!step.computed) return progress;
  progress.scaler = next_state(scaler_, progress.scaler, skipped);
  if (skipped) return progress;
  ++progress.updates;
  progress.schedule.num_steps += samples;
  return progress;
}

StepMetrics StepPipeline::settle() {
  MEGATRON_CHECK(!steps_.empty(), "no step is in flight");
  const Step step = std::move(steps_.front());
  steps_.pop_front();
  StepMetrics m = step.metrics;
  m.skipped = !step.computed;
  if (step.computed) {
    const StepResult result = engine_.take_result();
    m.lm_loss = result.loss_sum / step.weights;
    m.grad_norm = result.grad_norm;
    m.skipped = result.skipped;
  }
  progress_ = advance(progress_, step, m.skipped);
  finish_metrics(m, step.data_wait);
  if (step.computed && m.skipped) {
    for (const Step& later : steps_) {
      if (later.computed) engine_.take_result();  // halted: it did nothing
    }
    report_non_finite(step);
    engine_.resume_after_skip();
    ahead_ = progress_;
    for (Step& later : steps_) enqueue(later);
  }
  return m;
}

void StepPipeline::finish_metrics(StepMetrics& m, double data_wait) {
  m.consumed_samples = progress_.consumed_samples;
  m.consumed_tokens = progress_.consumed_tokens;
  m.skipped_iterations = progress_.skipped_iterations;
  m.peak_memory_bytes = engine_.device().peak_allocated_bytes();
  const Clock::time_point now = Clock::now();
  m.step_seconds = std::chrono::duration<double>(now - last_settled_).count();
  last_settled_ = now;
  m.data_wait_fraction = m.step_seconds > 0 ? std::min(1.0, data_wait / m.step_seconds) : 0.0;
  const int64_t tokens = m.batch_size * config_.model.seq_length;
  const ModelSpec& spec = engine_.programs().spec;
  set_rates(m, tokens, flops_per_token(spec) * static_cast<double>(tokens), engine_.ranks().size(),
            dense_peak_flops(engine_.device().description(), spec.dtype));
}

/// A skipped step: says what was not finite, and ends the run after this iteration where the configuration wants that.
void StepPipeline::report_non_finite(const Step& step) {
  const int64_t iteration = step.metrics.iteration;
  const std::string what = str_cat("iteration ", iteration,
                                   ": the gradient norm is not finite; the step was skipped, weights are unchanged");
  log_warn(what);
  std::string place;
  if (scaler_.kind != LossScaling::kDynamic && config_.run.replay_non_finite) {
    place = first_non_finite(step);
    log_warn(str_cat("iteration ", iteration, ": ", place));
  }
  if (!config_.training.check_for_nan_in_loss_and_grad) return;
  fatal_ = str_cat(
      what, place.empty() ? "" : "; " + place,
      ". Look at the data and the learning rate, or set training.check_for_nan_in_loss_and_grad: false to skip such "
      "steps and go on");
}

/// The replay that names the first value that is not finite.
std::string StepPipeline::first_non_finite(const Step& step) {
  for (const Batch& batch : step.batches) {
    engine_.begin_step();
    const std::string place = engine_.locate_non_finite(batch, seed_of(step, batch), step.metrics.iteration);
    if (!place.empty()) return "the first value that is not finite: " + place;
  }
  return "every value of every micro-batch is finite; their sum overflows";
}

}  // namespace megatron
