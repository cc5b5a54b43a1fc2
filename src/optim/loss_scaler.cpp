#include "optim/loss_scaler.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/strings.h"

namespace megatron {
namespace {

void require(bool condition, const char* key, const char* rule) {
  if (!condition) throw UsageError(str_cat("precision.", key, ": ", rule));
}

}  // namespace

LossScaler make_loss_scaler(const PrecisionConfig& settings) {
  LossScaler scaler;
  if (settings.params_dtype != "fp16") {
    require(!settings.loss_scale, "loss_scale", "has no effect unless params_dtype is fp16");
    return scaler;
  }
  if (settings.loss_scale) {
    require(std::isfinite(*settings.loss_scale) && *settings.loss_scale > 0, "loss_scale", "must be positive");
    scaler.kind = LossScaling::kConstant;
    scaler.initial_scale = *settings.loss_scale;
    return scaler;
  }
  require(std::isfinite(settings.min_loss_scale) && settings.min_loss_scale > 0, "min_loss_scale", "must be positive");
  require(std::isfinite(settings.initial_loss_scale) && settings.initial_loss_scale >= settings.min_loss_scale,
          "initial_loss_scale", "must not be below min_loss_scale");
  require(settings.loss_scale_window > 0, "loss_scale_window", "must be positive");
  require(settings.hysteresis > 0, "hysteresis", "must be positive");
  scaler.kind = LossScaling::kDynamic;
  scaler.initial_scale = settings.initial_loss_scale;
  scaler.min_scale = settings.min_loss_scale;
  scaler.window = settings.loss_scale_window;
  scaler.hysteresis = settings.hysteresis;
  return scaler;
}

LossScalerState initial_state(const LossScaler& scaler) {
  LossScalerState state;
  state.scale = scaler.initial_scale;
  if (scaler.kind == LossScaling::kDynamic) state.hysteresis_tracker = scaler.hysteresis;
  return state;
}

LossScalerState next_state(const LossScaler& scaler, LossScalerState state, bool found_inf) {
  if (scaler.kind != LossScaling::kDynamic) return state;
  if (found_inf) {
    state.growth_tracker = 0;
    state.hysteresis_tracker -= 1;
    if (state.hysteresis_tracker <= 0) state.scale = std::max(state.scale * scaler.backoff_factor, scaler.min_scale);
    return state;
  }
  state.growth_tracker += 1;
  if (state.growth_tracker == scaler.window) {
    state.growth_tracker = 0;
    state.hysteresis_tracker = scaler.hysteresis;
    state.scale *= scaler.growth_factor;
  }
  return state;
}

LossScalerState restored_state(const LossScaler& scaler, const LossScalerState& stored) {
  if (scaler.kind != LossScaling::kDynamic) return initial_state(scaler);
  if (!std::isfinite(stored.scale) || stored.scale <= 0 || stored.growth_tracker < 0) {
    throw DataError(str_cat("the checkpoint's loss scaler is not valid: scale ", stored.scale, ", growth tracker ",
                            stored.growth_tracker, "; choose another checkpoint"));
  }
  LossScalerState state = stored;
  // A shorter window than the stored count would never be met by equality: growth happens at the next clean step.
  state.growth_tracker = std::min(state.growth_tracker, scaler.window - 1);
  return state;
}

}  // namespace megatron
