#pragma once

#include <vector>

#include "kernels/adamw/cases.h"
#include "kernels/cases.h"
#include "kernels/gradient_norm/gradient_norm.h"

namespace megatron {

inline std::vector<OpCase> sum_of_squares_cases() {
  using Type = CaseOperand::Type;
  OpCase c;
  c.make = [](DType) { return sum_of_squares_kind(); };
  c.differentiable_results = {};
  std::vector<OpCase> cases;
  c.name = "one gradient";
  c.operands = {{.name = "a", .shape = {7, 3}, .type = Type::kAccumulator}};
  cases.push_back(c);
  c.name = "three gradients, one empty";
  c.operands = {{.name = "a", .shape = {129, 257}, .type = Type::kAccumulator},
                {.name = "b", .shape = {0, 4}, .type = Type::kAccumulator},
                {.name = "c", .shape = {5}, .type = Type::kAccumulator, .scale = 1e3}};
  cases.push_back(c);
  c.name = "2 M elements";
  c.operands = {{.name = "a", .shape = {2048, 1024}, .type = Type::kAccumulator}};
  c.speed = true;
  cases.push_back(c);
  return cases;
}

inline std::vector<OpCase> clip_cases() {
  std::vector<OpCase> cases;
  for (const double clip : {0.0, 1.0, 100.0}) {
    OpCase c;
    c.name = "clip=" + std::to_string(clip);
    c.make = [clip](DType) { return clip_kind(clip); };
    c.differentiable_results = {};
    c.operands = {fp64_scalar("inverse_scale", 0.25), fp64_scalar("sum", 900.0), fp64_scalar("sum", 700.0)};
    cases.push_back(c);
  }
  return cases;
}

}  // namespace megatron
