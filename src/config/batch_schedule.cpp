#include "config/batch_schedule.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <sstream>

#include "base/error.h"
#include "base/strings.h"

namespace megatron {
namespace {

/// "250B", "768"; -1 when it is no such number or too large.
int64_t read_number(std::string text, bool with_suffix) {
  int64_t unit = 1;
  if (with_suffix && !text.empty()) {
    switch (text.back()) {
      case 'K':
        unit = 1000;
        break;
      case 'M':
        unit = 1000000;
        break;
      case 'B':
        unit = 1000000000;
        break;
      case 'T':
        unit = 1000000000000;
        break;
      default:
        break;
    }
    if (unit > 1) text.pop_back();
  }
  int64_t value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return -1;
  return value > std::numeric_limits<int64_t>::max() / unit ? -1 : value * unit;
}

}  // namespace

std::optional<BatchSchedule> parse_batch_schedule(const std::string& text, int64_t seq_length, std::string* problem) {
  BatchSchedule schedule;
  std::istringstream words(text);
  const auto wrong = [&](const std::string& what) {
    *problem = what;
    return std::nullopt;
  };
  for (std::string word; words >> word;) {
    const size_t colon = word.find(':');
    const int64_t tokens = read_number(word.substr(0, colon), true);
    const int64_t size = colon == std::string::npos ? -1 : read_number(word.substr(colon + 1), false);
    if (tokens < 0 || size < 1) {
      return wrong(str_cat("'", word, "' is not TOKENS:SAMPLES, such as 250B:1536"));
    }
    const BatchSizeStep step{tokens / seq_length, size};
    if (schedule.empty() && tokens != 0) return wrong(str_cat("the first threshold is ", tokens, " tokens, not 0"));
    if (!schedule.empty() && step.first_sample <= schedule.back().first_sample) {
      return wrong(str_cat("the threshold of '", word, "' is not a sample after that of the one before"));
    }
    if (!schedule.empty() && size < schedule.back().batch_size) {
      return wrong(str_cat("'", word, "' makes the batch smaller than ", schedule.back().batch_size));
    }
    schedule.push_back(step);
  }
  if (schedule.empty()) return wrong("it has no entry; write one as 0:768");
  return schedule;
}

BatchSchedule batch_schedule(const Config& config) {
  const std::string& text = config.training.step_batch_size_schedule;
  if (text.empty()) return {{0, config.training.global_batch_size}};
  std::string problem;
  const auto schedule = parse_batch_schedule(text, config.model.seq_length, &problem);
  if (!schedule) throw UsageError("training.step_batch_size_schedule: " + problem);
  return *schedule;
}

int64_t batch_size_at(const BatchSchedule& schedule, int64_t consumed_samples) {
  const auto after =
      std::upper_bound(schedule.begin(), schedule.end(), consumed_samples,
                       [](int64_t consumed, const BatchSizeStep& step) { return consumed < step.first_sample; });
  return std::prev(after)->batch_size;
}

int64_t steps_within(const BatchSchedule& schedule, int64_t samples) {
  int64_t steps = 0, consumed = 0;
  for (size_t i = 0; i < schedule.size(); ++i) {
    const int64_t size = schedule[i].batch_size;
    const bool last = i + 1 == schedule.size();
    // Steps that begin before the next size does; the last of them may reach beyond.
    const int64_t until = last ? samples : schedule[i + 1].first_sample;
    const int64_t begun =
        last ? (samples - consumed) / size : std::max<int64_t>(0, (until - consumed + size - 1) / size);
    const int64_t fitting = std::min(begun, std::max<int64_t>(0, (samples - consumed) / size));
    steps += fitting;
    consumed += fitting * size;
    if (fitting < begun) break;
  }
  return steps;
}

}  // namespace megatron
