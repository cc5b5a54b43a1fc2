// Row loops of softmax on the CPU, written so that the compiler vectorises them: sums and maxima run in a fixed number
// of lanes, so the order of operations, and with it every bit, is part of the source.
#pragma once

#include <cstdint>
#include <limits>

#include "kernels/vector_math.h"

namespace megatron {

constexpr int kRowLanes = 16;

/// Maximum of n values; the lowest finite number when n is 0. NaN may be lost here: exp_sum brings it back.
template <typename A>
A row_max(const A* x, int64_t n) {
  A lanes[kRowLanes];
  for (A& lane : lanes) lane = std::numeric_limits<A>::lowest();
  int64_t j = 0;
  for (; j + kRowLanes <= n; j += kRowLanes) {
    for (int l = 0; l < kRowLanes; ++l) lanes[l] = x[j + l] > lanes[l] ? x[j + l] : lanes[l];
  }
  A top = std::numeric_limits<A>::lowest();
  for (; j < n; ++j) top = x[j] > top ? x[j] : top;
  for (const A lane : lanes) top = lane > top ? lane : top;
  return top;
}

/// x = exp(x - shift) in place; returns the sum.
template <typename A>
A exp_sum(A* x, int64_t n, A shift) {
  for (int64_t j = 0; j < n; ++j) x[j] = vector_exp(x[j] - shift);
  A lanes[kRowLanes] = {};
  int64_t j = 0;
  for (; j + kRowLanes <= n; j += kRowLanes) {
    for (int l = 0; l < kRowLanes; ++l) lanes[l] += x[j + l];
  }
  A sum = 0;
  for (; j < n; ++j) sum += x[j];
  for (const A lane : lanes) sum += lane;
  return sum;
}

/// Sum of a[j] * b[j].
template <typename A>
A row_dot(const A* a, const A* b, int64_t n) {
  A lanes[kRowLanes] = {};
  int64_t j = 0;
  for (; j + kRowLanes <= n; j += kRowLanes) {
    for (int l = 0; l < kRowLanes; ++l) lanes[l] += a[j + l] * b[j + l];
  }
  A sum = 0;
  for (; j < n; ++j) sum += a[j] * b[j];
  for (const A lane : lanes) sum += lane;
  return sum;
}

}  // namespace megatron
