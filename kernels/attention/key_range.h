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
  const int64_t aligned =  // the key at the query's own place
      args.last_key ? element(args.last_key) : args.first_query + s + args.sizes.keys - args.sizes.queries;
  if (args.last_key && aligned < 0) return {};
  KeyRange range{0, args.k.shape[0]};
  if (o.window_left >= 0) range.begin = std::max(range.begin, aligned - o.window_left);
  if (args.starts) range.begin = std::max(range.begin, element(args.starts));
  if (o.window_right >= 0) range.end = std::min(range.end, aligned + o.window_right + 1);
  if (o.causal || args.last_key) range.end = std::min(range.end, aligned + 1);
  if (range.empty()) return {};
  return range;
}

}  // namespace megatron
