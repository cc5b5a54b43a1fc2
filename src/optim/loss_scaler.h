// Loss scaling for fp16: the loss is multiplied by `scale` before the backward pass and gradients are divided by it
// before they are used, so that small gradients do not vanish (Micikevicius et al., "Mixed precision training", ICLR
// 2018). The update rule is Megatron-LM's (megatron/core/optimizer/grad_scaler.py).
#pragma once

#include <cstdint>

#include "config/config.h"

namespace megatron {

enum class LossScaling { kOff, kConstant, kDynamic };

/// The resolved rule. kOff (every type but fp16): scale 1 for ever, and a non-finite step is still skipped.
struct LossScaler {
  LossScaling kind = LossScaling::kOff;
  double initial_scale = 1.0;
  double min_scale = 1.0;
  double growth_factor = 2.0;
  double backoff_factor = 0.5;
  int64_t window = 1000;
  int64_t hysteresis = 2;
};

/// What a checkpoint keeps.
struct LossScalerState {
  double scale = 1.0;
  int64_t growth_tracker = 0;      ///< clean steps since the last growth or overflow
  int64_t hysteresis_tracker = 0;  ///< overflows left before the scale shrinks; refilled only by growth
};

/// kOff unless params_dtype is fp16; then constant when loss_scale is set, else dynamic. Throws UsageError naming the
/// key when a value is out of range.
LossScaler make_loss_scaler(const PrecisionConfig& settings);

/// State at the start of training.
LossScalerState initial_state(const LossScaler& scaler);

/// State after a step. `found_inf`: any gradient on any rank was Inf or NaN (then the step changes no weight).
///   overflow: growth_tracker = 0; hysteresis_tracker -= 1; if it is <= 0: scale = max(scale * backoff, min)
///   clean:    growth_tracker += 1; if it equals window: growth_tracker = 0, hysteresis_tracker = hysteresis,
///             scale *= growth
/// Only growth refills hysteresis_tracker, so overflows need not be consecutive to shrink the scale.
LossScalerState next_state(const LossScaler& scaler, LossScalerState state, bool found_inf);

/// State to go on with after loading `stored`: the stored one for a dynamic scaler, the configured constant otherwise.
/// Under a window that is now shorter than the count of clean steps, growth comes with the next clean step.
/// Throws DataError when a dynamic scaler is given a state that no run can have written.
LossScalerState restored_state(const LossScaler& scaler, const LossScalerState& stored);

}  // namespace megatron
