// The global batch size as a function of the samples that were consumed (training.step_batch_size_schedule).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/config.h"

namespace megatron {

/// From `first_sample` on a global batch has `batch_size` samples.
struct BatchSizeStep {
  int64_t first_sample = 0;
  int64_t batch_size = 0;
};
using BatchSchedule = std::vector<BatchSizeStep>;

/// Megatron-LM's text: "0:768 250B:1536" is 768 samples, and 1536 once 250e9 tokens were consumed. Thresholds are
/// tokens with K, M, B or T for 1e3, 1e6, 1e9 and 1e12, rounded down to samples of `seq_length`; the first is 0, they
/// grow, and sizes do not shrink. nullopt when it is not that, and what is wrong in `problem`.
std::optional<BatchSchedule> parse_batch_schedule(const std::string& text, int64_t seq_length, std::string* problem);

/// One step where the configuration has no schedule. UsageError when it cannot be read.
BatchSchedule batch_schedule(const Config& config);

/// Of the step that begins when so many samples were consumed.
int64_t batch_size_at(const BatchSchedule& schedule, int64_t consumed_samples);

/// Whole steps in the first `samples` samples.
int64_t steps_within(const BatchSchedule& schedule, int64_t samples);

}  // namespace megatron
