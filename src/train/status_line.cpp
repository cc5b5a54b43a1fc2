#include "train/status_line.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string_view>

#include "base/check.h"
#include "base/strings.h"

namespace megatron {
namespace {

constexpr std::chrono::milliseconds kRefreshInterval{100};
constexpr int kDefaultColumns = 80;

template <typename... Arguments>
std::string format(const char* pattern, Arguments... arguments) {
  char text[96];
  std::snprintf(text, sizeof text, pattern, arguments...);
  return text;
}

/// "15.8 s", "240 ms".
std::string step_time(double seconds) {
  if (seconds >= 100) return format("%.0f s", seconds);
  if (seconds >= 1) return format("%.1f s", seconds);
  return seconds >= 0.01 ? format("%.0f ms", seconds * 1e3) : format("%.2f ms", seconds * 1e3);
}

/// "133 ktok/s" with three digits.
std::string token_rate(double rate) {
  static const char* const kUnits[] = {"tok/s", "ktok/s", "Mtok/s", "Gtok/s"};
  int unit = 0;
  for (; rate >= 999.5 && unit < 3; ++unit) rate /= 1000;
  return format(unit == 0 || rate >= 99.95 ? "%.0f %s" : rate >= 9.995 ? "%.1f %s" : "%.2f %s", rate, kUnits[unit]);
}

std::string step_head(int64_t iteration, int64_t total) {
  return total > 0 ? str_cat("step ", iteration, "/", total) : str_cat("step ", iteration);
}

/// "lm_loss" is called "loss" here, "load_balancing_loss" is "load balancing loss".
std::string shown_name(const std::string& loss) {
  if (loss == "lm_loss") return "loss";
  std::string name = loss;
  std::replace(name.begin(), name.end(), '_', ' ');
  return name;
}

}  // namespace

std::string format_step_line(const StepSummary& s) {
  std::vector<std::string> parts = {step_head(s.iteration, s.total_iterations)};
  parts.push_back(s.lm_loss ? format("loss %.4f", *s.lm_loss) : "loss -");
  for (const auto& [name, value] : s.losses) parts.push_back(str_cat(shown_name(name), format(" %.4g", value)));
  parts.push_back(s.grad_norm ? format("norm %.3f", *s.grad_norm) : "norm -");
  parts.push_back(format("lr %.2e", s.learning_rate));
  if (s.loss_scale != 1.0) parts.push_back(format("scale %g", s.loss_scale));
  parts.push_back(step_time(s.step_seconds));
  parts.push_back(token_rate(s.tokens_per_second));
  if (s.mfu) parts.push_back(format("mfu %.1f %%", *s.mfu * 100));
  parts.push_back(format("data %.1f %%", s.data_wait_fraction * 100));
  if (s.skipped > 0) parts.push_back(str_cat("skipped ", s.skipped));
  if (s.eta_seconds) parts.push_back(str_cat("eta ", format_duration(*s.eta_seconds)));
  return join(parts, " | ");
}

std::string format_evaluation_line(const Evaluation& evaluation, int64_t iteration, int64_t total_iterations) {
  std::vector<std::string> parts = {step_head(iteration, total_iterations)};
  const std::string prefix = str_cat(evaluation.split, evaluation.set.empty() ? "" : " ", evaluation.set);
  for (const auto& [name, value] : evaluation.losses) {
    parts.push_back(str_cat(prefix, " ", shown_name(name), format(" %.4f", value)));
    if (name == "lm_loss") parts.push_back(format("ppl %.4g", perplexity(value)));
  }
  return join(parts, " | ");
}

void StepAverager::add(const StepMetrics& m) {
  last_ = m;
  ++count_;
  seconds_ += m.step_seconds;
  tokens_ += m.tokens_per_second * m.step_seconds;
  mfu_ += m.mfu.value_or(0) * m.step_seconds;
  waited_ += m.data_wait_fraction * m.step_seconds;
  if (m.skipped) {
    ++skipped_;
  } else {
    ++good_;
    loss_ += m.lm_loss.value_or(0);
    for (const auto& [name, value] : m.losses) {
      const auto known = std::find_if(losses_.begin(), losses_.end(), [&](const auto& l) { return l.first == name; });
      if (known == losses_.end()) {
        losses_.emplace_back(name, value);
      } else {
        known->second += value;
      }
    }
  }
  // The first step pays for warming up, so it counts only until there is a second. A slow average follows later
  // changes.
  ++paced_;
  const double weight = paced_ == 1 ? 1.0 : std::max(1.0 / static_cast<double>(paced_ - 1), 0.02);
  pace_ += weight * (m.step_seconds - pace_);
}

StepSummary StepAverager::summary() const {
  StepSummary s;
  s.iteration = last_.iteration;
  s.total_iterations = total_;
  if (good_ > 0) {
    s.lm_loss = loss_ / static_cast<double>(good_);
    for (const auto& [name, sum] : losses_) s.losses.emplace_back(name, sum / static_cast<double>(good_));
  }
  s.grad_norm = last_.grad_norm;
  s.learning_rate = last_.learning_rate;
  s.loss_scale = last_.loss_scale;
  s.skipped = skipped_;
  s.step_seconds = count_ > 0 ? seconds_ / static_cast<double>(count_) : 0;
  const double time = std::max(seconds_, 1e-9);
  s.tokens_per_second = tokens_ / time;
  if (last_.mfu) s.mfu = mfu_ / time;
  s.data_wait_fraction = waited_ / time;
  if (last_.iteration < total_) s.eta_seconds = pace_ * static_cast<double>(total_ - last_.iteration);
  return s;
}

void StepAverager::reset() {
  count_ = good_ = skipped_ = 0;
  loss_ = seconds_ = tokens_ = mfu_ = waited_ = 0;
  losses_.clear();
}

StatusLine::StatusLine(std::FILE* out, const StatusLineOptions& options)
    : out_(out), options_(options), averager_(options.total_iterations) {
  MEGATRON_CHECK(options.log_interval > 0, "log interval");
}

StatusLine::~StatusLine() {
  finish();
}

void StatusLine::finish() {
  if (averager_.empty()) return clear();
  message(format_step_line(averager_.summary()));
  averager_.reset();
}

int StatusLine::columns() const {
  if (options_.columns > 0) return options_.columns;
  winsize size = {};
  return ::ioctl(::fileno(out_), TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : kDefaultColumns;
}

void StatusLine::clear() {
  if (!visible_) return;
  std::fputs("\r\x1b[K", out_);
  std::fflush(out_);
  visible_ = false;
}

void StatusLine::message(const std::string& text) {
  clear();
  std::fprintf(out_, "%s\n", text.c_str());
  std::fflush(out_);
}

void StatusLine::show(const std::string& line) {
  // A line that wraps could not be taken back by a carriage return.
  const auto width = static_cast<size_t>(std::max(columns() - 1, 1));
  std::fprintf(out_, "\r\x1b[K%s", line.substr(0, width).c_str());
  std::fflush(out_);
  visible_ = true;
}

void StatusLine::write(const StepMetrics& metrics) {
  const bool repeated = metrics.iteration == last_iteration_;
  last_iteration_ = metrics.iteration;
  if (!repeated) evaluations_shown_ = 0;
  if (metrics.trained && !repeated) {
    averager_.add(metrics);
    const bool stays =
        first_ || metrics.iteration % options_.log_interval == 0 || metrics.iteration == options_.total_iterations;
    const auto now = std::chrono::steady_clock::now();
    if (stays) {
      message(format_step_line(averager_.summary()));
      averager_.reset();
      first_ = false;
    } else if (options_.terminal && now >= next_refresh_) {
      show(format_step_line(averager_.summary()));
      next_refresh_ = now + kRefreshInterval;
    }
  }
  for (; evaluations_shown_ < metrics.evaluations.size(); ++evaluations_shown_) {
    message(
        format_evaluation_line(metrics.evaluations[evaluations_shown_], metrics.iteration, options_.total_iterations));
  }
}

bool is_terminal(std::FILE* stream) {
  const char* term = std::getenv("TERM");
  return ::isatty(::fileno(stream)) != 0 && (term == nullptr || std::string_view(term) != "dumb");
}

}  // namespace megatron
