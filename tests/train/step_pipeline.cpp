// Steps ahead of their results: whatever is in flight, what is computed and reported is the same.
#include <cmath>

#include "optim/lr_schedule.h"
#include "tests/catch.h"
#include "tests/train/trainer_helpers.h"
#include "train/step_pipeline.h"

namespace megatron::test {
namespace {

struct Outcome {
  std::vector<StepMetrics> steps;
  Progress progress;
  Weights state;
};

Outcome run(const Settings& settings, size_t depth, int64_t iterations) {
  EngineRun run(settings);
  const LossScaler scaler = make_loss_scaler(run.config().precision);
  Progress start;
  start.scaler = initial_state(scaler);
  StepPipeline pipeline(run.config(), run.engine(), resolve_schedule(run.config().optimizer, run.config().training),
                        scaler, start);
  pipeline.set_depth(depth);
  Outcome outcome;
  const auto settle = [&](size_t left) {
    while (pipeline.in_flight() > left) outcome.steps.push_back(pipeline.settle());
  };
  for (int64_t i = 1; i <= iterations; ++i) {
    pipeline.submit(run.batches(i), 0);
    CHECK(pipeline.iteration() == i);
    settle(depth);
  }
  settle(0);
  outcome.progress = pipeline.progress();
  outcome.state = run.state();
  return outcome;
}

void check_same(const Outcome& a, const Outcome& b) {
  REQUIRE(a.steps.size() == b.steps.size());
  for (size_t i = 0; i < a.steps.size(); ++i) {
    const StepMetrics &x = a.steps[i], &y = b.steps[i];
    INFO("step " << i + 1);
    CHECK(x.iteration == y.iteration);
    CHECK(x.iteration == static_cast<int64_t>(i) + 1);
    CHECK(x.skipped == y.skipped);
    CHECK(x.skipped_iterations == y.skipped_iterations);
    CHECK(x.consumed_samples == y.consumed_samples);
    CHECK(x.learning_rate == y.learning_rate);
    CHECK(x.loss_scale == y.loss_scale);
    CHECK(x.lm_loss.has_value() == y.lm_loss.has_value());
    if (x.lm_loss && std::isfinite(*x.lm_loss)) CHECK(x.lm_loss == y.lm_loss);
    if (x.grad_norm && std::isfinite(*x.grad_norm)) CHECK(x.grad_norm == y.grad_norm);
  }
  CHECK(difference(a.state, b.state) == "");
  CHECK(a.progress.updates == b.progress.updates);
  CHECK(a.progress.schedule.num_steps == b.progress.schedule.num_steps);
  CHECK(a.progress.scaler.scale == b.progress.scaler.scale);
  CHECK(a.progress.scaler.growth_tracker == b.progress.scaler.growth_tracker);
}

}  // namespace

TEST_CASE("pipeline: one step ahead gives the bits of no step ahead") {
  const Settings settings = tiny({{"precision.params_dtype", "bf16"}});
  check_same(run(settings, 0, 12), run(settings, 1, 12));
}

TEST_CASE("pipeline: steps behind a skipped one are given again with the rate and scale that hold then") {
  // A scale that overflows fp16 for the first steps, and grows again soon, so that skips come in the middle too.
  const Settings settings = tiny({{"precision.params_dtype", "fp16"},
                                  {"precision.initial_loss_scale", "4294967296"},
                                  {"precision.loss_scale_window", "2"},
                                  {"precision.hysteresis", "1"}});
  const Outcome none = run(settings, 0, 40), ahead = run(settings, 1, 40);
  const int64_t skipped = none.steps.back().skipped_iterations;
  CHECK(skipped >= 8);
  CHECK(none.progress.updates == 40 - skipped);
  bool good = false, again = false;  // a skip after a good step
  for (const StepMetrics& m : none.steps) {
    again = again || (good && m.skipped);
    good = good || !m.skipped;
  }
  CHECK(again);
  check_same(none, ahead);
}

TEST_CASE("pipeline: an iteration to skip is read, not computed, and reports no loss") {
  const Settings settings = tiny({{"training.iterations_to_skip", "[2, 3, 6]"}});
  const Outcome none = run(settings, 0, 7), ahead = run(settings, 1, 7);
  check_same(none, ahead);
  CHECK_FALSE(none.steps[1].lm_loss);
  CHECK_FALSE(none.steps[1].grad_norm);
  CHECK(none.steps[1].skipped);
  CHECK(none.steps[3].lm_loss);
  CHECK(none.progress.updates == 4);
}

}  // namespace megatron::test
