#include "optim/lr_schedule.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/check.h"
#include "base/error.h"
#include "base/strings.h"

namespace megatron {
namespace {

constexpr double kPi = 3.14159265358979323846;

template <typename Style>
struct StyleName {
  Style style;
  std::string_view name;
};

constexpr StyleName<LrDecayStyle> kLrStyles[] = {{LrDecayStyle::kConstant, "constant"},
                                                 {LrDecayStyle::kLinear, "linear"},
                                                 {LrDecayStyle::kCosine, "cosine"},
                                                 {LrDecayStyle::kInverseSquareRoot, "inverse-square-root"},
                                                 {LrDecayStyle::kWsd, "WSD"}};
constexpr StyleName<WsdDecayStyle> kWsdStyles[] = {{WsdDecayStyle::kExponential, "exponential"},
                                                   {WsdDecayStyle::kLinear, "linear"},
                                                   {WsdDecayStyle::kCosine, "cosine"},
                                                   {WsdDecayStyle::kMinusSqrt, "minus_sqrt"}};
constexpr StyleName<WeightDecayStyle> kWeightDecayStyles[] = {{WeightDecayStyle::kConstant, "constant"},
                                                              {WeightDecayStyle::kLinear, "linear"},
                                                              {WeightDecayStyle::kCosine, "cosine"}};

template <typename Style, size_t N>
std::string_view style_name(const StyleName<Style> (&table)[N], Style style) {
  for (const auto& entry : table) {
    if (entry.style == style) return entry.name;
  }
  throw InternalError("style without a name");
}

template <typename Style, size_t N>
Style parse_style(const StyleName<Style> (&table)[N], std::string_view key, std::string_view text) {
  std::vector<std::string> names;
  for (const auto& entry : table) {
    if (entry.name == text) return entry.style;
    names.emplace_back(entry.name);
  }
  const std::string near = closest_match(text, names);
  throw UsageError(str_cat(key, ": \"", text, "\" is none of ", join(names, ", "),
                           near.empty() ? "" : str_cat(" (did you mean \"", near, "\"?)")));
}

[[noreturn]] void refuse(std::string_view key, const std::string& what) {
  throw UsageError(str_cat("optimizer.", key, ": ", what));
}

/// Shortest text that reads back as the same number.
std::string exact(double value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, value).ptr;
  return {text, end};
}

/// The two sections that a schedule is made of.
struct Sections {
  const OptimizerConfig& o;
  const TrainingConfig& t;
};

/// Samples of the whole training.
int64_t training_steps(const Sections& s) {
  if (s.t.train_iters.has_value() == s.t.train_samples.has_value()) {
    throw UsageError("training: set exactly one of train_iters and train_samples");
  }
  if (s.t.global_batch_size <= 0) throw UsageError("training.global_batch_size must be positive");
  const int64_t steps = s.t.train_samples ? *s.t.train_samples : *s.t.train_iters * s.t.global_batch_size;
  if (steps <= 0) {
    throw UsageError(
        str_cat("training.", s.t.train_samples ? "train_samples" : "train_iters", " must be positive, not ", steps));
  }
  return steps;
}

/// Iteration keys belong to train_iters, sample keys to train_samples; a key of the other kind would be ignored.
void check_units(const Sections& s) {
  const bool samples = s.t.train_samples.has_value();
  const char* remedy = samples ? "training is measured in train_samples: use the _samples key"
                               : "training is measured in train_iters: use the _iters key";
  if (samples && s.o.lr_decay_iters) refuse("lr_decay_iters", remedy);
  if (samples && s.o.lr_wsd_decay_iters) refuse("lr_wsd_decay_iters", remedy);
  if (samples && s.o.lr_warmup_iters != 0) refuse("lr_warmup_iters", remedy);
  if (!samples && s.o.lr_decay_samples) refuse("lr_decay_samples", remedy);
  if (!samples && s.o.lr_wsd_decay_samples) refuse("lr_wsd_decay_samples", remedy);
  if (!samples && s.o.lr_warmup_samples != 0) refuse("lr_warmup_samples", remedy);
  if (s.o.lr_warmup_fraction && (s.o.lr_warmup_iters != 0 || s.o.lr_warmup_samples != 0)) {
    refuse("lr_warmup_fraction",
           str_cat("give either this or lr_warmup_", samples ? "samples" : "iters", ", not both"));
  }
}

/// The length given by the key of the current unit, in samples; nothing when the key is not set.
std::optional<int64_t> length(const Sections& s, const std::optional<int64_t>& iters,
                              const std::optional<int64_t>& samples) {
  if (s.t.train_samples) return samples;
  if (!iters) return std::nullopt;
  return *iters * s.t.global_batch_size;
}

LrRange checked_range(std::string_view key, double max_lr, std::string_view min_key, double min_lr) {
  if (!std::isfinite(max_lr) || max_lr < 0) refuse(key, str_cat("must be a number >= 0, not ", exact(max_lr)));
  if (!std::isfinite(min_lr) || min_lr < 0) refuse(min_key, str_cat("must be a number >= 0, not ", exact(min_lr)));
  if (min_lr > max_lr) {
    refuse(min_key, str_cat("is ", exact(min_lr), ", above optimizer.", key, " = ", exact(max_lr)));
  }
  return {max_lr, min_lr};
}

void resolve_rates(const Sections& s, Schedule& out) {
  out.lr = checked_range("lr", s.o.lr, "min_lr", s.o.min_lr);
  if (s.o.decoupled_lr) {
    // Without a floor of its own the decoupled group uses the common one.
    const bool own = s.o.decoupled_min_lr.has_value();
    out.decoupled = checked_range("decoupled_lr", *s.o.decoupled_lr, own ? "decoupled_min_lr" : "min_lr",
                                  s.o.decoupled_min_lr.value_or(s.o.min_lr));
  } else if (s.o.decoupled_min_lr) {
    refuse("decoupled_min_lr", "has no effect without optimizer.decoupled_lr");
  }
  out.warmup_init = s.o.lr_warmup_init;
  if (!std::isfinite(out.warmup_init) || out.warmup_init < 0 || out.warmup_init > out.lr.max_lr) {
    refuse("lr_warmup_init",
           str_cat("must lie between 0 and optimizer.lr = ", exact(out.lr.max_lr), ", not ", exact(out.warmup_init)));
  }
}

void resolve_lengths(const Sections& s, int64_t total, Schedule& out) {
  const char* unit = s.t.train_samples ? "samples" : "iters";
  out.decay_steps = length(s, s.o.lr_decay_iters, s.o.lr_decay_samples).value_or(total);
  if (out.decay_steps <= 0) refuse(str_cat("lr_decay_", unit), "must be positive");
  if (s.o.lr_warmup_fraction) {
    if (!(*s.o.lr_warmup_fraction >= 0 && *s.o.lr_warmup_fraction < 1)) {
      refuse("lr_warmup_fraction", str_cat("must lie in [0, 1), not ", exact(*s.o.lr_warmup_fraction)));
    }
    out.warmup_steps = *s.o.lr_warmup_fraction * static_cast<double>(out.decay_steps);
  } else {
    out.warmup_steps = static_cast<double>(*length(s, s.o.lr_warmup_iters, s.o.lr_warmup_samples));
  }
  if (out.warmup_steps < 0) refuse(str_cat("lr_warmup_", unit), "must not be negative");
  if (out.warmup_steps >= static_cast<double>(out.decay_steps)) {
    refuse(str_cat("lr_warmup_", unit),
           str_cat("the warm-up (", exact(out.warmup_steps), " samples) must be shorter than the decay (",
                   out.decay_steps, " samples); shorten it or raise lr_decay_", unit));
  }
  if (out.lr_style != LrDecayStyle::kWsd) return;
  const std::optional<int64_t> wsd = length(s, s.o.lr_wsd_decay_iters, s.o.lr_wsd_decay_samples);
  const std::string key = str_cat("lr_wsd_decay_", unit);
  if (!wsd) refuse(key, "is required with lr_decay_style: WSD");
  if (*wsd < 0 || *wsd > out.decay_steps) {
    refuse(key,
           str_cat("the annealing (", *wsd, " samples) must lie within the decay (", out.decay_steps, " samples)"));
  }
  out.wsd_steps = *wsd;
}

void resolve_weight_decay(const Sections& s, int64_t total, Schedule& out) {
  out.wd_style = parse_weight_decay_style(s.o.weight_decay_incr_style);
  out.wd_steps = total;
  if (out.wd_style == WeightDecayStyle::kConstant) {
    if (s.o.start_weight_decay || s.o.end_weight_decay) {
      refuse(s.o.start_weight_decay ? "start_weight_decay" : "end_weight_decay",
             "needs weight_decay_incr_style: linear or cosine; with constant use weight_decay");
    }
    out.start_wd = out.end_wd = s.o.weight_decay;
  } else {
    if (!s.o.start_weight_decay || !s.o.end_weight_decay) {
      refuse("weight_decay_incr_style",
             str_cat(s.o.weight_decay_incr_style, " needs both start_weight_decay and end_weight_decay"));
    }
    out.start_wd = *s.o.start_weight_decay;
    out.end_wd = *s.o.end_weight_decay;
  }
  if (!std::isfinite(out.end_wd) || !(out.start_wd >= 0) || out.end_wd < out.start_wd) {
    refuse(
        out.wd_style == WeightDecayStyle::kConstant ? "weight_decay" : "start_weight_decay",
        str_cat("weight decay must satisfy 0 <= start <= end, not ", exact(out.start_wd), " and ", exact(out.end_wd)));
  }
}

double wsd_coefficient(const Schedule& schedule, int64_t num_steps) {
  const int64_t anneal_start = schedule.decay_steps - schedule.wsd_steps;
  if (num_steps <= anneal_start) return 1.0;
  const double q = static_cast<double>(num_steps - anneal_start) / static_cast<double>(schedule.wsd_steps);
  switch (schedule.wsd_style) {
    case WsdDecayStyle::kExponential:
      return 2.0 * std::pow(0.5, q) - 1.0;
    case WsdDecayStyle::kLinear:
      return 1.0 - q;
    case WsdDecayStyle::kCosine:
      return 0.5 * (std::cos(kPi * q) + 1.0);
    case WsdDecayStyle::kMinusSqrt:
      return 1.0 - std::sqrt(q);
  }
  throw InternalError("unknown WSD decay style");
}

}  // namespace

std::string_view to_string(LrDecayStyle style) {
  return style_name(kLrStyles, style);
}
std::string_view to_string(WsdDecayStyle style) {
  return style_name(kWsdStyles, style);
}
std::string_view to_string(WeightDecayStyle style) {
  return style_name(kWeightDecayStyles, style);
}

LrDecayStyle parse_lr_decay_style(std::string_view text) {
  return parse_style(kLrStyles, "optimizer.lr_decay_style", text);
}
WsdDecayStyle parse_wsd_decay_style(std::string_view text) {
  return parse_style(kWsdStyles, "optimizer.lr_wsd_decay_style", text);
}
WeightDecayStyle parse_weight_decay_style(std::string_view text) {
  return parse_style(kWeightDecayStyles, "optimizer.weight_decay_incr_style", text);
}

Schedule resolve_schedule(const OptimizerConfig& optimizer, const TrainingConfig& training) {
  const Sections sections{optimizer, training};
  Schedule out;
  const int64_t total = training_steps(sections);
  check_units(sections);
  out.lr_style = parse_lr_decay_style(optimizer.lr_decay_style);
  out.wsd_style = parse_wsd_decay_style(optimizer.lr_wsd_decay_style);
  resolve_rates(sections, out);
  resolve_lengths(sections, total, out);
  resolve_weight_decay(sections, total, out);
  return out;
}

double learning_rate(const Schedule& schedule, int64_t num_steps, const LrRange& range) {
  MEGATRON_CHECK(num_steps >= 0, str_cat("schedule asked at ", num_steps, " samples"));
  const double n = static_cast<double>(num_steps), warmup = schedule.warmup_steps;
  if (warmup > 0 && n <= warmup) {
    return schedule.warmup_init + (range.max_lr - schedule.warmup_init) * n / warmup;
  }
  if (schedule.lr_style == LrDecayStyle::kConstant) return range.max_lr;
  if (num_steps > schedule.decay_steps) return range.min_lr;
  if (schedule.lr_style == LrDecayStyle::kInverseSquareRoot) {
    const double lr = range.max_lr * std::sqrt(std::max(warmup, 1.0)) / std::sqrt(std::max(n, 1.0));
    return std::max(range.min_lr, lr);
  }
  const double ratio = (n - warmup) / (static_cast<double>(schedule.decay_steps) - warmup);
  double coefficient = 0.0;
  switch (schedule.lr_style) {
    case LrDecayStyle::kLinear:
      coefficient = 1.0 - ratio;
      break;
    case LrDecayStyle::kCosine:
      coefficient = 0.5 * (std::cos(kPi * ratio) + 1.0);
      break;
    case LrDecayStyle::kWsd:
      coefficient = wsd_coefficient(schedule, num_steps);
      break;
    case LrDecayStyle::kConstant:
    case LrDecayStyle::kInverseSquareRoot:
      throw InternalError("style handled above");
  }
  return range.min_lr + coefficient * (range.max_lr - range.min_lr);
}

double learning_rate(const Schedule& schedule, int64_t num_steps) {
  return learning_rate(schedule, num_steps, schedule.lr);
}

double weight_decay(const Schedule& schedule, int64_t num_steps) {
  MEGATRON_CHECK(num_steps >= 0, str_cat("schedule asked at ", num_steps, " samples"));
  if (num_steps > schedule.wd_steps || schedule.wd_style == WeightDecayStyle::kConstant) return schedule.end_wd;
  const double ratio = static_cast<double>(num_steps) / static_cast<double>(schedule.wd_steps);
  const bool cosine = schedule.wd_style == WeightDecayStyle::kCosine;
  const double coefficient = cosine ? 0.5 * (std::cos(kPi * (1.0 - ratio)) + 1.0) : ratio;
  return schedule.start_wd + coefficient * (schedule.end_wd - schedule.start_wd);
}

std::vector<ScheduleDifference> schedule_differences(const Schedule& stored, const Schedule& configured) {
  std::vector<ScheduleDifference> differences;
  const auto compare = [&](const char* name, const std::string& a, const std::string& b) {
    if (a != b) differences.push_back({name, a, b});
  };
  const auto number = [&](const char* name, double a, double b) { compare(name, exact(a), exact(b)); };
  const auto count = [&](const char* name, int64_t a, int64_t b) {
    compare(name, std::to_string(a), std::to_string(b));
  };
  const auto range_part = [](const std::optional<LrRange>& range, bool upper) {
    return range ? exact(upper ? range->max_lr : range->min_lr) : std::string("unset");
  };
  const auto style = [&](const char* name, auto a, auto b) {
    compare(name, std::string(to_string(a)), std::string(to_string(b)));
  };
  number("lr", stored.lr.max_lr, configured.lr.max_lr);
  number("min_lr", stored.lr.min_lr, configured.lr.min_lr);
  compare("decoupled_lr", range_part(stored.decoupled, true), range_part(configured.decoupled, true));
  compare("decoupled_min_lr", range_part(stored.decoupled, false), range_part(configured.decoupled, false));
  number("lr_warmup_init", stored.warmup_init, configured.warmup_init);
  number("lr_warmup_samples", stored.warmup_steps, configured.warmup_steps);
  style("lr_decay_style", stored.lr_style, configured.lr_style);
  count("lr_decay_samples", stored.decay_steps, configured.decay_steps);
  if (stored.lr_style == LrDecayStyle::kWsd && configured.lr_style == LrDecayStyle::kWsd) {
    style("lr_wsd_decay_style", stored.wsd_style, configured.wsd_style);
    count("lr_wsd_decay_samples", stored.wsd_steps, configured.wsd_steps);
  }
  number("start_weight_decay", stored.start_wd, configured.start_wd);
  number("end_weight_decay", stored.end_wd, configured.end_wd);
  style("weight_decay_incr_style", stored.wd_style, configured.wd_style);
  if (stored.wd_style != WeightDecayStyle::kConstant || configured.wd_style != WeightDecayStyle::kConstant) {
    count("weight_decay_incr_samples", stored.wd_steps, configured.wd_steps);
  }
  return differences;
}

std::string describe(const std::vector<ScheduleDifference>& differences) {
  std::string text;
  for (const ScheduleDifference& difference : differences) {
    text += str_cat(text.empty() ? "" : "\n", "optimizer.", difference.name, ": checkpoint ", difference.stored,
                    ", configuration ", difference.configured);
  }
  return text;
}

Schedule choose_schedule(const Schedule& stored, const Schedule& configured, bool override_opt_param_scheduler,
                         bool use_checkpoint_opt_param_scheduler) {
  if (override_opt_param_scheduler && use_checkpoint_opt_param_scheduler) {
    refuse("override_opt_param_scheduler", "and optimizer.use_checkpoint_opt_param_scheduler exclude each other");
  }
  if (override_opt_param_scheduler) return configured;
  if (use_checkpoint_opt_param_scheduler) return stored;
  const std::vector<ScheduleDifference> differences = schedule_differences(stored, configured);
  if (differences.empty()) return configured;
  throw UsageError(str_cat("the schedule differs from the checkpoint's (lengths in samples):\n", describe(differences),
                           "\nset optimizer.override_opt_param_scheduler: true to use the configuration's values, or "
                           "optimizer.use_checkpoint_opt_param_scheduler: true to keep the checkpoint's"));
}

}  // namespace megatron
