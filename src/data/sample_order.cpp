#include "data/sample_order.h"

#include <cmath>
#include <cstdlib>

#include "base/check.h"
#include "base/error.h"
#include "base/philox.h"
#include "base/strings.h"
#include "config/rules.h"

namespace megatron {

DataCursor cursor_of(int64_t global_sample, int64_t samples_per_epoch) {
  MEGATRON_CHECK(global_sample >= 0 && samples_per_epoch > 0, "sample numbers count from 0");
  return {global_sample / samples_per_epoch, global_sample % samples_per_epoch};
}

SampleOrder::SampleOrder(int64_t samples, uint64_t key) : samples_(samples), key_(key), half_bits_(1) {
  MEGATRON_CHECK(samples > 0, "an order needs samples");
  while (half_bits_ < 31 && (uint64_t{1} << (2 * half_bits_)) < static_cast<uint64_t>(samples)) ++half_bits_;
  MEGATRON_CHECK((uint64_t{1} << (2 * half_bits_)) >= static_cast<uint64_t>(samples), "too many samples");
}

uint64_t SampleOrder::permute(uint64_t epoch_key, uint64_t value) const {
  constexpr uint32_t kRounds = 8;
  const uint32_t mask = (uint32_t{1} << half_bits_) - 1;
  uint32_t left = static_cast<uint32_t>(value >> half_bits_), right = static_cast<uint32_t>(value) & mask;
  for (uint32_t round = 0; round < kRounds; ++round) {
    const uint32_t mixed = left ^ (philox(epoch_key, right, round, 0x6f726472u, 0).v[0] & mask);
    left = right;
    right = mixed;
  }
  return uint64_t{left} << half_bits_ | right;
}

int64_t SampleOrder::at(int64_t epoch, int64_t index) const {
  MEGATRON_CHECK(epoch >= 0 && index >= 0 && index < samples_, "sample out of range");
  const uint64_t epoch_key = philox_key(static_cast<uint64_t>(epoch), key_);
  // Walking along the cycle of the permutation leads back into the range: at the latest to `index` itself. The domain
  // is at most four times the range, so about two steps are expected.
  uint64_t value = static_cast<uint64_t>(index);
  do {
    value = permute(epoch_key, value);
  } while (value >= static_cast<uint64_t>(samples_));
  return static_cast<int64_t>(value);
}

std::array<double, 3> split_shares(const std::string& text) {
  const std::optional<std::vector<double>> shares = parse_split(text);
  if (!shares) {
    throw UsageError(str_cat("split \"", text,
                             "\" is not up to three shares, none negative, their sum above zero, as in \"98,2,0\""));
  }
  return {(*shares)[0], (*shares)[1], (*shares)[2]};
}

std::array<int64_t, 4> split_borders(const std::array<double, 3>& shares, int64_t count) {
  std::array<int64_t, 4> borders{};
  double sum = 0;
  for (size_t k = 0; k < 3; ++k) {
    sum += shares[k];
    borders[k + 1] = std::min(count, static_cast<int64_t>(std::nearbyint(sum * static_cast<double>(count))));
  }
  return borders;
}

}  // namespace megatron
