// Cases of the fused language-model head and cross entropy.
#pragma once

#include <vector>

#include "kernels/cases.h"
#include "kernels/lm_head_loss/lm_head_loss.h"

namespace megatron {

inline OpCase lm_head_loss_case(const std::string& name, int64_t s, int64_t b, int64_t c, int64_t v, int64_t valid,
                                double scale = 0.3, double weight = 0.7) {
  using Fill = CaseOperand::Fill;
  using Type = CaseOperand::Type;
  OpCase result;
  result.name = "lm_head_loss " + name;
  result.make = [valid](DType) { return lm_head_loss_kind(valid); };
  result.operands = {{"x", {s, b, c}},
                     {"w", {v, c}, Type::kCompute, Fill::kNormal, scale},
                     {"labels", {s, b}, Type::kInt32, Fill::kIndices, 1.0, 0.0, valid},
                     {"weights", {s, b}, Type::kFloat32, Fill::kConstant, 0.0, weight},
                     {"seed", {}, Type::kAccumulator, Fill::kConstant, 0.0, 1.5}};
  result.differentiable_operands = {0, 1};
  result.fused_loss = true;
  return result;
}

inline std::vector<OpCase> lm_head_loss_cases() {
  std::vector<OpCase> cases = {
      lm_head_loss_case("odd sizes", 7, 3, 5, 13, 13),
      lm_head_loss_case("padded vocabulary", 5, 2, 6, 32, 19),
      lm_head_loss_case("one token, one word", 1, 1, 3, 1, 1),
      lm_head_loss_case("weight 0", 3, 2, 4, 9, 9, 0.3, 0.0),
      lm_head_loss_case("large logits", 4, 2, 8, 11, 11, 40.0),
      lm_head_loss_case("empty", 0, 2, 4, 9, 9),
      lm_head_loss_case("a row beyond shared memory", 3, 1, 4, 120001, 119990),
      lm_head_loss_case("speed", 512, 4, 512, 16384, 16384, 0.05),
  };
  cases[4].differentiable_results.clear();  // a step function: finite differences say nothing
  cases.back().speed = true;
  return cases;
}

}  // namespace megatron
