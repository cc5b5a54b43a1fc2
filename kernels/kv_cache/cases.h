// Cases of the key-value cache.
#pragma once

#include <cmath>
#include <vector>

#include "kernels/cases.h"
#include "kernels/kv_cache/kv_cache.h"

namespace megatron {

inline OpCase kv_cache_append_case(const std::string& name, int64_t s, int64_t t, int64_t b, int64_t g, int64_t d) {
  using Type = CaseOperand::Type;
  OpCase c;
  c.name = "kv_cache_append " + name;
  c.make = [](DType) { return kv_cache_append_kind(); };
  c.operands = {
      {"cache", {b, t, g, d}}, {"x", {s, b, g, d}}, {"position", {s, b}, Type::kInt32, CaseOperand::Fill::kRamp}};
  c.operands[0].state = true;
  c.differentiable_results.clear();
  return c;
}

inline OpCase attention_cached_case(const std::string& name, int64_t s, int64_t t, int64_t b, int64_t g, int64_t q,
                                    int64_t d, int64_t window_left = -1) {
  using Type = CaseOperand::Type;
  AttentionOptions options;
  options.softmax_scale = 1.0 / std::sqrt(static_cast<double>(d));
  options.window_left = window_left;
  OpCase c;
  c.name = "attention_cached " + name;
  c.make = [options](DType) { return attention_cached_kind(options); };
  c.operands = {{"q", {s, b, g, q, d}},
                {"k_cache", {b, t, g, d}},
                {"v_cache", {b, t, g, d}},
                {"position", {s, b}, Type::kInt32, CaseOperand::Fill::kIndices, 1.0, 0.0, t}};
  c.differentiable_results.clear();
  return c;
}

/// One token that sees the whole cache.
inline OpCase attention_full_cache_case(const std::string& name, int64_t t, int64_t b, int64_t g, int64_t q,
                                        int64_t d) {
  OpCase c = attention_cached_case(name, 1, t, b, g, q, d);
  c.operands[3].fill = CaseOperand::Fill::kConstant;
  c.operands[3].shift = static_cast<double>(t - 1);
  return c;
}

inline std::vector<OpCase> kv_cache_cases() {
  std::vector<OpCase> cases = {
      kv_cache_append_case("prompt", 5, 9, 2, 3, 4),
      kv_cache_append_case("full", 9, 9, 1, 1, 1),
      kv_cache_append_case("empty", 0, 9, 2, 3, 4),
      attention_cached_case("prompt", 5, 9, 2, 2, 3, 4),
      attention_cached_case("one token", 1, 12, 3, 1, 4, 8),
      attention_cached_case("window", 3, 12, 2, 2, 2, 5, 3),
      attention_cached_case("empty batch", 1, 12, 0, 1, 4, 8),
      attention_cached_case("long cache", 1, 700, 2, 2, 4, 128),
      attention_cached_case("long cache, several tokens", 3, 301, 2, 1, 6, 40),
      attention_cached_case("long cache, more rows than a tile", 5, 260, 1, 1, 6, 64),
      attention_cached_case("long cache, window", 2, 500, 1, 2, 3, 64, 99),
      attention_cached_case("long cache, odd head size", 1, 300, 2, 1, 2, 37),
      attention_full_cache_case("whole cache", 513, 1, 2, 8, 128),
      attention_cached_case("speed", 1, 2048, 16, 8, 4, 128),
  };
  cases.back().speed = true;
  return cases;
}

}  // namespace megatron
