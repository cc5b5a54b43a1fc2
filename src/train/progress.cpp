#include "train/progress.h"

namespace megatron {

std::map<std::string, MetaValue> to_state(const Progress& p) {
  return {{"iteration", p.iteration},
          {"consumed_samples", p.consumed_samples},
          {"consumed_tokens", p.consumed_tokens},
          {"skipped_iterations", p.skipped_iterations},
          {"updates", p.updates},
          {"schedule_steps", p.schedule.num_steps},
          {"loss_scale", p.scaler.scale},
          {"loss_scale_growth_tracker", p.scaler.growth_tracker},
          {"loss_scale_hysteresis_tracker", p.scaler.hysteresis_tracker}};
}

Progress read_progress(const CheckpointReader& reader) {
  Progress p;
  p.iteration = reader.state_int("iteration");
  p.consumed_samples = reader.state_int("consumed_samples");
  p.consumed_tokens = reader.state_int("consumed_tokens");
  p.skipped_iterations = reader.state_int("skipped_iterations");
  p.updates = reader.state_int("updates");
  p.schedule.num_steps = reader.state_int("schedule_steps");
  p.scaler.scale = reader.state_double("loss_scale");
  p.scaler.growth_tracker = reader.state_int("loss_scale_growth_tracker");
  p.scaler.hysteresis_tracker = reader.state_int("loss_scale_hysteresis_tracker");
  return p;
}

}  // namespace megatron
