// Which sample comes when, as functions: nothing is stored, any place is reached in O(1).
#pragma once

#include <array>
#include <cstdint>
#include <string>

namespace megatron {

/// A place in the endless sequence of samples.
struct DataCursor {
  int64_t epoch = 0, sample = 0;  ///< sample: number within the epoch
  bool operator==(const DataCursor&) const = default;
};

/// Epoch and place of the global sample number `global_sample` >= 0.
DataCursor cursor_of(int64_t global_sample, int64_t samples_per_epoch);

/// A shuffle of [0, samples) for every epoch: a Feistel network over the smallest even number of bits that holds the
/// range, keyed by (key, epoch) through Philox, with cycle walking (Black and Rogaway, "Ciphers with arbitrary finite
/// domains", 2002) for what falls outside the range. Each value comes out exactly once per epoch.
class SampleOrder {
 public:
  SampleOrder(int64_t samples, uint64_t key);
  int64_t samples() const { return samples_; }
  /// Which sample is number `index` of the epoch.
  int64_t at(int64_t epoch, int64_t index) const;

 private:
  uint64_t permute(uint64_t epoch_key, uint64_t value) const;
  int64_t samples_;
  uint64_t key_;
  int half_bits_;
};

/// Shares of train, valid and test from text like "98,2,0": up to three numbers >= 0, missing ones 0, divided by their
/// sum. UsageError on anything else.
std::array<double, 3> split_shares(const std::string& text);

/// Borders b with share k being [b[k], b[k + 1]) of `count` things: b[k] = round(count * (sum of shares before k)),
/// halves to even, as Megatron-LM rounds.
std::array<int64_t, 4> split_borders(const std::array<double, 3>& shares, int64_t count);

}  // namespace megatron
