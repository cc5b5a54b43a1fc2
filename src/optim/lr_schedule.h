// Learning-rate and weight-decay schedules as pure functions of the settings and of n, the number of samples consumed
// by successful iterations. Nothing else is state: a resumed run asks the same function at the same n.
//
// The rules are those of Megatron-LM's OptimizerParamScheduler (megatron/core/optimizer_param_scheduler.py). All
// lengths are in samples; iterations are converted with the global batch size. An iteration that was skipped (overflow)
// does not advance n.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "config/config.h"

namespace megatron {

enum class LrDecayStyle { kConstant, kLinear, kCosine, kInverseSquareRoot, kWsd };
enum class WsdDecayStyle { kExponential, kLinear, kCosine, kMinusSqrt };
enum class WeightDecayStyle { kConstant, kLinear, kCosine };

/// "constant", "linear", "cosine", "inverse-square-root", "WSD". The parsers throw UsageError with the legal names.
std::string_view to_string(LrDecayStyle style);
/// "exponential", "linear", "cosine", "minus_sqrt".
std::string_view to_string(WsdDecayStyle style);
/// "constant", "linear", "cosine".
std::string_view to_string(WeightDecayStyle style);
LrDecayStyle parse_lr_decay_style(std::string_view text);
WsdDecayStyle parse_wsd_decay_style(std::string_view text);
WeightDecayStyle parse_weight_decay_style(std::string_view text);

/// Upper and lower learning rate of a parameter group.
struct LrRange {
  double max_lr = 0.0;
  double min_lr = 0.0;
};

/// The settings resolved to samples; every value is final.
struct Schedule {
  LrRange lr;                        ///< the default group
  std::optional<LrRange> decoupled;  ///< word embedding and output layer, when decoupled_lr is set
  double warmup_init = 0.0;
  double warmup_steps = 0.0;  ///< W, not rounded: fraction * decay_steps may be fractional, as upstream
  int64_t decay_steps = 0;
  LrDecayStyle lr_style = LrDecayStyle::kLinear;
  int64_t wsd_steps = 0;  ///< length of the annealing at the end of decay_steps; 0 unless WSD
  WsdDecayStyle wsd_style = WsdDecayStyle::kExponential;
  double start_wd = 0.0;
  double end_wd = 0.0;
  int64_t wd_steps = 0;  ///< length of the ramp: the whole training
  WeightDecayStyle wd_style = WeightDecayStyle::kConstant;
};

/// What a checkpoint keeps of the schedule.
struct ScheduleState {
  int64_t num_steps = 0;  ///< n: samples consumed by successful iterations
};

/// Resolves and checks. Exactly one of train_iters and train_samples is set; it decides whether lengths are given by
/// the
/// `_iters` or by the `_samples` keys. Throws UsageError naming the keys when they are missing, contradict each other
/// or are out of range (W < decay_steps, min_lr <= lr, lr_warmup_init <= lr, 0 <= start_weight_decay <=
/// end_weight_decay, ...).
Schedule resolve_schedule(const OptimizerConfig& optimizer, const TrainingConfig& training);

/// Learning rate of the iteration that starts with n = num_steps. With r = (n - W) / (decay - W):
///   W > 0 and n <= W: init + (max - init) * n / W
///   constant: max;  n > decay (all other styles): min
///   inverse-square-root: max(min, max * sqrt(max(W, 1)) / sqrt(max(n, 1)))
///   otherwise min + c * (max - min); linear c = 1 - r; cosine c = (cos(pi r) + 1) / 2
///   WSD: c = 1 up to n = decay - wsd, then with q = (n - decay + wsd) / wsd: linear 1 - q; cosine (cos(pi q) + 1) / 2;
///   exponential 2 * 0.5^q - 1; minus_sqrt 1 - sqrt(q)
double learning_rate(const Schedule& schedule, int64_t num_steps, const LrRange& range);
/// The same for the default group.
double learning_rate(const Schedule& schedule, int64_t num_steps);

/// Weight decay (before a group's multiplier): n > wd_steps: end; constant: end; linear: start + (end - start) * n /
/// wd_steps; cosine: start + (end - start) * (cos(pi (1 - n / wd_steps)) + 1) / 2.
double weight_decay(const Schedule& schedule, int64_t num_steps);

/// One value that the checkpoint and the configuration do not agree on. Texts have full precision.
struct ScheduleDifference {
  std::string name;  ///< key, for example "lr" or "lr_warmup_iters/_samples/_fraction (in samples)"
  std::string stored;
  std::string configured;
};

/// All values that differ, in a fixed order; empty when the two schedules are the same function.
std::vector<ScheduleDifference> schedule_differences(const Schedule& stored, const Schedule& configured);

/// Megatron's rule on resume: the values must agree, unless `override_opt_param_scheduler` (configured wins) or
/// `use_checkpoint_opt_param_scheduler` (stored wins). Throws UsageError with every difference and both ways out; also
/// when both switches are set.
Schedule choose_schedule(const Schedule& stored, const Schedule& configured, bool override_opt_param_scheduler,
                         bool use_checkpoint_opt_param_scheduler);

/// "optimizer.lr 0.0003 -> 0.0001" lines, for the list of decisions.
std::string describe(const std::vector<ScheduleDifference>& differences);

}  // namespace megatron
