#pragma once

#include <vector>

#include "kernels/adamw/adamw.h"
#include "kernels/cases.h"

namespace megatron {

inline CaseOperand fp64_scalar(const std::string& name, double value) {
  return {.name = name,
          .shape = {},
          .type = CaseOperand::Type::kFloat64,
          .fill = CaseOperand::Fill::kConstant,
          .shift = value};
}

inline OpCase adamw_case(const std::string& name, const Dims& shape, double step, double skip) {
  using Type = CaseOperand::Type;
  OpCase c;
  c.name = name;
  c.make = [](DType) { return adamw_kind({0.9, 0.95, 1e-8, 1.0}); };
  c.operands = {{.name = "param", .shape = shape, .state = true},
                {.name = "master", .shape = shape, .type = Type::kMaster, .state = true},
                {.name = "m", .shape = shape, .type = Type::kAccumulator, .scale = 0.1, .state = true},
                {.name = "v", .shape = shape, .type = Type::kAccumulator, .scale = 0.05, .shift = 0.5, .state = true},
                {.name = "grad", .shape = shape, .type = Type::kAccumulator},
                fp64_scalar("lr", 1e-2),
                fp64_scalar("weight_decay", 0.1),
                fp64_scalar("coefficient", 0.5),
                fp64_scalar("skip", skip),
                fp64_scalar("t", step)};
  c.differentiable_results = {};
  return c;
}

inline std::vector<OpCase> adamw_cases() {
  std::vector<OpCase> cases;
  cases.push_back(adamw_case("[33, 7] first step", {33, 7}, 1, 0));
  cases.push_back(adamw_case("[129] step 1000", {129}, 1000, 0));
  cases.push_back(adamw_case("[5, 3] skipped", {5, 3}, 4, 1));
  cases.push_back(adamw_case("empty", {0, 3}, 4, 0));
  cases.push_back(adamw_case("one element", {1}, 2, 0));
  cases.push_back(adamw_case("[2, 3, 4, 5]", {2, 3, 4, 5}, 2, 0));
  cases.push_back(adamw_case("2 M parameters", {2048, 1024}, 10, 0));
  cases.back().speed = true;
  return cases;
}

}  // namespace megatron
