// Progress on the console of rank 0: one line that is rewritten in place on a terminal, plain lines elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "train/metrics.h"

namespace megatron {

/// What a step line shows, averaged over the iterations since the last one where that makes sense.
struct StepSummary {
  int64_t iteration = 0;
  int64_t total_iterations = 0;
  std::optional<double> lm_loss;  ///< mean over the steps that were not skipped; empty when all were
  std::vector<std::pair<std::string, double>> losses;
  std::optional<double> grad_norm;
  double learning_rate = 0.0;
  double step_seconds = 0.0;
  double tokens_per_second = 0.0;
  std::optional<double> mfu;
  double data_wait_fraction = 0.0;
  double loss_scale = 1.0;
  int64_t skipped = 0;                ///< skipped iterations among these
  std::optional<double> eta_seconds;  ///< empty after the last iteration
};

/// "step 1200/95000 | loss 2.8134 | norm 0.412 | lr 2.98e-04 | 15.8 s | 133 ktok/s | mfu 46.9 % | data 0.2 % |
/// eta 17d03h". Left out: mfu when empty, the loss scale when it is 1, skipped when none was.
std::string format_step_line(const StepSummary& summary);

/// "step 1200/95000 | valid loss 2.7712 | ppl 15.98"; the name of the set after the split where there is one.
std::string format_evaluation_line(const Evaluation& evaluation, int64_t iteration, int64_t total_iterations);

/// Means over the iterations added since the last take().
class StepAverager {
 public:
  explicit StepAverager(int64_t total_iterations) : total_(total_iterations) {}
  void add(const StepMetrics& metrics);
  bool empty() const { return count_ == 0; }
  /// Summary of what was added; the collected numbers stay.
  StepSummary summary() const;
  void reset();

 private:
  int64_t total_;
  StepMetrics last_;
  int64_t count_ = 0, good_ = 0, skipped_ = 0;
  double loss_ = 0, seconds_ = 0, tokens_ = 0, mfu_ = 0, waited_ = 0;
  std::vector<std::pair<std::string, double>> losses_;
  double pace_ = 0;  ///< running mean of step seconds, for the ETA
  int64_t paced_ = 0;
};

struct StatusLineOptions {
  int64_t log_interval = 100;
  int64_t total_iterations = 0;
  bool terminal = false;  ///< `out` is a terminal: the current step is shown in place
  int columns = 0;        ///< width of the terminal; 0 asks it
};

/// Writes step lines and evaluation lines to `out` (not owned). A line stays for the first iteration of the run, each
/// one that log_interval divides, and the last.
class StatusLine : public MetricsSink {
 public:
  StatusLine(std::FILE* out, const StatusLineOptions& options);
  ~StatusLine() override;
  StatusLine(const StatusLine&) = delete;
  StatusLine& operator=(const StatusLine&) = delete;

  void write(const StepMetrics& metrics) override;
  /// A line of text that stays, above the line in place.
  void message(const std::string& text);
  /// Takes the line in place away, for output that does not come through here; the next write() brings it back.
  void clear();
  /// Prints a line that stays for iterations that have none yet: after the last write() of a run that stops early. The
  /// destructor calls it.
  void finish();

 private:
  void show(const std::string& line);
  int columns() const;

  std::FILE* out_;
  StatusLineOptions options_;
  StepAverager averager_;
  bool first_ = true;
  bool visible_ = false;
  int64_t last_iteration_ = -1;
  size_t evaluations_shown_ = 0;  ///< of last_iteration_
  std::chrono::steady_clock::time_point next_refresh_{};
};

/// True when the stream is a terminal that understands cursor control.
bool is_terminal(std::FILE* stream);

}  // namespace megatron
