// Cases of attention: head groupings, masks, dropout, odd sizes, and lengths that differ.
#pragma once

#include <cmath>
#include <vector>

#include "kernels/attention/attention.h"
#include "kernels/attention/attention_cudnn.h"
#include "kernels/cases.h"

namespace megatron {

struct AttentionCaseShape {
  int64_t s, t, b, g, q, d, e;
};

inline OpCase attention_case(const std::string& name, const AttentionCaseShape& n, AttentionOptions options,
                             bool starts = false, double scale = 1.0) {
  options.softmax_scale = 1.0 / std::sqrt(static_cast<double>(n.d));
  if (options.dropout > 0) {
    options.seed = 77;
    options.name = "decoder.layers.0.self_attention.core_attention";
  }
  using Fill = CaseOperand::Fill;
  using Type = CaseOperand::Type;
  const Fill keyed = options.dropout > 0 ? Fill::kIndices : Fill::kAbsent;
  OpCase c;
  c.name = "attention " + name;
  c.repeatable = options.deterministic;
  c.make = [options, n](DType compute) {
    AttentionOptions chosen = options;
    if (size_of(compute) != 2 && chosen.implementation == AttentionImplementation::kCudnn) {
      chosen.implementation = AttentionImplementation::kBest;
    }
    return attention_kind(chosen, {n.s, n.t, n.q});
  };
  c.operands = {
      {"q", {n.s, n.b, n.g, n.q, n.d}, Type::kCompute, Fill::kNormal, scale},
      {"k", {n.t, n.b, n.g, n.d}, Type::kCompute, Fill::kNormal, scale},
      {"v", {n.t, n.b, n.g, n.e}},
      {"starts", {n.s, n.b}, Type::kInt32, starts ? Fill::kIndices : Fill::kAbsent, 1.0, 0.0, 4},
      {"step", {}, Type::kInt64, keyed, 1.0, 0.0, 1000},
      {"sample", {n.b}, Type::kInt64, keyed, 1.0, 0.0, int64_t{1} << 40},
      {"position", {n.s, n.b}, Type::kInt32, options.dropout > 0 ? Fill::kRamp : Fill::kAbsent},
  };
  return c;
}

/// A case for each implementation that a GPU has.
inline void add_by_implementation(std::vector<OpCase>& cases, const std::string& name, const AttentionCaseShape& n,
                                  AttentionOptions options, double scale = 1.0) {
  options.implementation = AttentionImplementation::kOwn;
  cases.push_back(attention_case(name + ", own kernel", n, options, false, scale));
  if (!cudnn_problem().empty()) return;
  options.implementation = AttentionImplementation::kCudnn;
  cases.push_back(attention_case(name + ", cuDNN", n, options, false, scale));
  options.deterministic = false;
  cases.push_back(attention_case(name + ", cuDNN, not deterministic", n, options, false, scale));
}

/// Cases that the fused kernels of 16-bit types take.
inline void add_fused_cases(std::vector<OpCase>& cases) {
  AttentionOptions causal, full, window, both;
  full.causal = false;
  window.window_left = 19;
  both.causal = false;
  both.window_left = 33;
  both.window_right = 7;
  add_by_implementation(cases, "fused causal, heads of 64", {130, 130, 2, 2, 1, 64, 64}, causal);
  add_by_implementation(cases, "fused causal grouped, heads of 128", {97, 97, 1, 2, 3, 128, 128}, causal);
  add_by_implementation(cases, "fused causal, two tokens", {2, 2, 2, 1, 2, 32, 32}, causal);
  add_by_implementation(cases, "fused full, heads of 8", {64, 64, 1, 1, 4, 8, 8}, full);
  add_by_implementation(cases, "fused full, cross lengths", {40, 150, 2, 1, 2, 96, 96}, full);
  add_by_implementation(cases, "fused window", {150, 150, 1, 2, 2, 80, 80}, window);
  add_by_implementation(cases, "fused two-sided window", {129, 129, 1, 2, 1, 64, 64}, both);
  add_by_implementation(cases, "fused causal, heads of 192", {70, 70, 1, 1, 2, 192, 192}, causal);
  add_by_implementation(cases, "fused causal, values of 32", {70, 70, 1, 2, 2, 64, 32}, causal);
  AttentionOptions parts;
  parts.workspace_limit = 1;
  add_by_implementation(cases, "fused causal, in parts by sample and group", {96, 96, 2, 3, 2, 64, 64}, parts);
  parts.workspace_limit = 560000;  // two samples
  add_by_implementation(cases, "fused causal, in parts of two samples", {128, 128, 4, 2, 2, 64, 64}, parts);
  add_by_implementation(cases, "fused large scores", {64, 64, 1, 2, 1, 64, 64}, causal, 8.0);
}

/// Parts of a sequence that 3 ranks share: keys before, at and after the queries.
inline void add_part_cases(std::vector<OpCase>& cases) {
  AttentionOptions causal, full, window, dropout;
  full.causal = false;
  window.window_left = 9;
  dropout.dropout = 0.3;
  for (int64_t keys = 0; keys < 3; ++keys) {
    for (AttentionOptions* options : {&causal, &full, &window, &dropout}) options->parts = {3, 1, keys};
    const std::string on = "part 1 on " + std::to_string(keys);
    cases.push_back(attention_case(on, {6, 6, 2, 2, 2, 4, 4}, causal));
    cases.push_back(attention_case(on + ", full", {6, 6, 1, 1, 3, 4, 4}, full));
    cases.push_back(attention_case(on + ", window, starts", {24, 24, 2, 2, 1, 8, 8}, window, true));
    cases.push_back(attention_case(on + ", dropout", {6, 6, 2, 2, 2, 4, 4}, dropout));
    add_by_implementation(cases, on + ", fused", {96, 96, 2, 2, 2, 64, 64}, causal);
  }
}

inline std::vector<OpCase> attention_cases() {
  AttentionOptions causal, full, window, both, dropout, dropout_window;
  full.causal = false;
  window.window_left = 3;
  both.causal = false;
  both.window_left = 2;
  both.window_right = 1;
  dropout.dropout = 0.3;
  dropout_window.dropout = 0.5;
  dropout_window.window_left = 4;
  std::vector<OpCase> cases = {
      attention_case("one token", {1, 1, 1, 1, 1, 1, 1}, causal),
      attention_case("multi-head causal", {7, 7, 2, 3, 1, 5, 5}, causal),
      attention_case("grouped causal", {9, 9, 2, 2, 3, 4, 4}, causal),
      attention_case("multi-query full", {6, 6, 3, 1, 4, 3, 3}, full),
      attention_case("values wider than keys", {5, 5, 1, 2, 2, 3, 7}, causal),
      attention_case("more keys than queries, causal", {3, 8, 2, 2, 2, 4, 4}, causal),
      attention_case("more queries than keys, causal: some see nothing", {8, 3, 1, 2, 1, 4, 4}, causal),
      attention_case("cross lengths, full", {4, 9, 1, 2, 2, 3, 3}, full),
      attention_case("window", {11, 11, 2, 2, 2, 4, 4}, window),
      attention_case("two-sided window", {10, 10, 1, 2, 2, 4, 4}, both),
      attention_case("window, more keys", {4, 13, 1, 1, 2, 4, 4}, window),
      attention_case("starts: some see nothing", {9, 9, 2, 2, 2, 4, 4}, causal, true),
      attention_case("dropout", {9, 9, 2, 2, 2, 4, 4}, dropout),
      attention_case("dropout, window, starts", {9, 9, 2, 2, 2, 4, 4}, dropout_window, true),
      attention_case("several blocks", {130, 130, 1, 1, 2, 8, 8}, causal),
      attention_case("large scores", {8, 8, 1, 2, 1, 4, 4}, causal, false, 30.0),
      attention_case("empty batch", {4, 4, 0, 2, 2, 4, 4}, causal),
      attention_case("no query", {0, 4, 1, 2, 2, 4, 4}, causal),
      attention_case("no key", {4, 0, 1, 2, 2, 4, 4}, full),
  };
  add_fused_cases(cases);
  for (OpCase& c : cases) {  // large scores make the softmax a step: finite differences say nothing there
    if (c.name.find("large scores") != std::string::npos) c.differentiable_results.clear();
  }
  add_part_cases(cases);
  cases.push_back(attention_case("speed causal grouped", {1024, 1024, 2, 2, 4, 64, 64}, causal));
  cases.back().speed = true;
  return cases;
}

}  // namespace megatron
