// Which keys a query sees: always one range.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/attention/attention.h"

namespace megatron {

/// Keys [begin, end).
struct KeyRange {
  int64_t begin = 0, end = 0;
  bool empty() const { return begin >= end; }
};

/// Keys that local query s of sample b sees, from causality, window, `starts` and `last_key`.
inline KeyRange visible_keys(const AttentionArgs& args, int64_t s, int64_t b) {
  const AttentionOptions& o = args.options;
  const auto element = [&](const Tensor& t) {
    return int64_t{static_cast<const int32_t*>(t.data)[s * t.strides[0] + b * t.strides[1]]};
  };
  const int64_t aligned = args.last_key ? element(args.last_key) : args.query_places.at(s);
  if (args.last_key && aligned < 0) return {};
  KeyRange range{0, args.k.shape[0]};
  const auto from = [&](int64_t place) { range.begin = std::max(range.begin, args.key_places.rows_below(place)); };
  const auto before = [&](int64_t place) { range.end = std::min(range.end, args.key_places.rows_below(place)); };
  if (o.window_left >= 0) from(aligned - o.window_left);
  if (args.starts) from(element(args.starts));
  if (o.window_right >= 0) before(aligned + o.window_right + 1);
  if (o.causal || args.last_key) before(aligned + 1);
  if (range.empty()) return {};
  return range;
}

}  // namespace megatron
