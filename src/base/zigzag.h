// How ranks share a sequence (context parallelism): it is cut in 2 n chunks for n ranks, and rank r holds chunks r and
// 2 n - 1 - r, one after the other. A rank has an early and a late chunk, so that causal attention is the same work for
// all. Host and device.
#pragma once

#include <cstdint>

#include "base/check.h"
#include "base/philox.h"

namespace megatron {

/// From the rows that a rank holds to their places in the sequence: row i stands at i + low, from row `split` on at
/// i + high. Increasing, so that masks that are ranges of places are ranges of rows. The default: the whole sequence.
struct RowPlaces {
  int64_t split = int64_t{1} << 60;
  int64_t low = 0, high = 0;

  MEGATRON_HOST_DEVICE int64_t at(int64_t row) const { return row + (row < split ? low : high); }
  /// Rows whose place is below `place`; may exceed the rows that there are.
  MEGATRON_HOST_DEVICE int64_t rows_below(int64_t place) const {
    const int64_t first = place - low, second = place - high;
    if (first <= split) return first < 0 ? 0 : first;
    return second < split ? split : second;
  }
};

/// Places of the `rows` that rank `rank` of `ranks` holds; the sequence has rows * ranks places.
inline RowPlaces zigzag_places(int64_t rows, int64_t rank, int64_t ranks) {
  MEGATRON_CHECK(rows % 2 == 0 && rank >= 0 && rank < ranks, "every rank holds two chunks of a sequence");
  const int64_t chunk = rows / 2;
  return {chunk, rank * chunk, (2 * ranks - 1 - rank) * chunk - chunk};
}

}  // namespace megatron
