#pragma once

#include <vector>

#include "kernels/adamw/cases.h"
#include "kernels/cases.h"
#include "kernels/sgd/sgd.h"

namespace megatron {

inline OpCase sgd_case(const std::string& name, const Dims& shape, double momentum, double step, double skip) {
  using Type = CaseOperand::Type;
  OpCase c;
  c.name = name;
  c.make = [momentum](DType) { return sgd_kind({momentum, 1.0}); };
  CaseOperand buffer{.name = "momentum", .shape = shape, .type = Type::kAccumulator, .state = true};
  if (momentum == 0) buffer.fill = CaseOperand::Fill::kAbsent;
  c.operands = {{.name = "param", .shape = shape, .state = true},
                {.name = "master", .shape = shape, .type = Type::kMaster, .state = true},
                buffer,
                {.name = "grad", .shape = shape, .type = Type::kAccumulator},
                fp64_scalar("lr", 1e-2),
                fp64_scalar("weight_decay", 0.1),
                fp64_scalar("coefficient", 0.5),
                fp64_scalar("skip", skip),
                fp64_scalar("t", step)};
  c.differentiable_results = {};
  return c;
}

inline std::vector<OpCase> sgd_cases() {
  std::vector<OpCase> cases;
  cases.push_back(sgd_case("[33, 7] first step", {33, 7}, 0.9, 1, 0));
  cases.push_back(sgd_case("[33, 7] step 5", {33, 7}, 0.9, 5, 0));
  cases.push_back(sgd_case("[33, 7] no momentum", {33, 7}, 0, 5, 0));
  cases.push_back(sgd_case("[5, 3] skipped", {5, 3}, 0.9, 4, 1));
  cases.push_back(sgd_case("empty", {0, 3}, 0.9, 4, 0));
  cases.push_back(sgd_case("2 M parameters", {2048, 1024}, 0.9, 10, 0));
  cases.back().speed = true;
  return cases;
}

}  // namespace megatron
