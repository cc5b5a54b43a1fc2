// Cases of attention_merge. Its gradient is that of the attention it completes: tests/parallel/context_test.cpp.
#pragma once

#include <limits>
#include <vector>

#include "kernels/attention_merge/attention_merge.h"
#include "kernels/cases.h"

namespace megatron {

/// `unseen`: the part that sees no key at all, or -1.
inline OpCase attention_merge_case(const std::string& name, int64_t parts, const Dims& out, int64_t unseen = -1,
                                   double scale = 1.0) {
  OpCase result;
  result.name = "attention_merge " + name;
  result.make = [parts](DType) { return attention_merge_kind(parts, nullptr); };
  for (int64_t i = 0; i < parts; ++i) {
    result.operands.push_back({"out", out});
    CaseOperand lse{"lse", {out[1], out[2], out[3], out[0]}, CaseOperand::Type::kAccumulator};
    lse.scale = scale;
    if (i == unseen) {
      lse.fill = CaseOperand::Fill::kConstant;
      lse.shift = std::numeric_limits<float>::lowest();
    }
    result.operands.push_back(lse);
  }
  result.differentiable_results.clear();
  return result;
}

inline std::vector<OpCase> attention_merge_cases() {
  std::vector<OpCase> cases = {attention_merge_case("two parts", 2, {5, 2, 2, 3, 7}),
                               attention_merge_case("four parts, packs", 4, {9, 1, 2, 2, 64}),
                               attention_merge_case("one part", 1, {3, 1, 1, 2, 8}),
                               attention_merge_case("far apart", 3, {6, 2, 1, 2, 16}, -1, 60.0),
                               attention_merge_case("a part without keys", 3, {6, 1, 2, 1, 8}, 1),
                               attention_merge_case("no keys", 1, {4, 1, 1, 1, 8}, 0),
                               attention_merge_case("empty", 2, {0, 1, 2, 1, 8}),
                               attention_merge_case("speed", 2, {2048, 1, 8, 4, 128})};
  cases.back().speed = true;
  return cases;
}

}  // namespace megatron
