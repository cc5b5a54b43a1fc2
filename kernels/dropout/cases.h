#pragma once

#include <vector>

#include "kernels/cases.h"
#include "kernels/dropout/dropout.h"

namespace megatron {

/// Operands step, sample and position of a random operation over [s, b].
inline std::vector<CaseOperand> random_operands(int64_t s, int64_t b, bool absent = false) {
  using Fill = CaseOperand::Fill;
  using Type = CaseOperand::Type;
  return {
      {.name = "step", .shape = {}, .type = Type::kInt64, .fill = absent ? Fill::kAbsent : Fill::kConstant, .shift = 3},
      {.name = "sample",
       .shape = {b},
       .type = Type::kInt64,
       .fill = absent ? Fill::kAbsent : Fill::kIndices,
       .limit = 1000000},
      {.name = "position", .shape = {s, b}, .type = Type::kInt32, .fill = absent ? Fill::kAbsent : Fill::kRamp}};
}

inline OpCase dropout_add_case(const std::string& name, const Dims& x, bool bias, double p) {
  OpCase c;
  c.name = name;
  c.make = [p](DType) { return dropout_add_kind({p, 42, "case"}); };
  CaseOperand b{.name = "bias", .shape = {x.back()}};
  if (!bias) b.fill = CaseOperand::Fill::kAbsent;
  c.operands = {{.name = "x", .shape = x}, b, {.name = "residual", .shape = x}};
  for (CaseOperand& operand : random_operands(x[0], x[1], p == 0)) c.operands.push_back(operand);
  return c;
}

inline std::vector<OpCase> dropout_add_cases() {
  std::vector<OpCase> cases;
  cases.push_back(dropout_add_case("7x3x129 p=0", {7, 3, 129}, true, 0));
  cases.push_back(dropout_add_case("7x3x129 p=0.1 bias", {7, 3, 129}, true, 0.1));
  cases.push_back(dropout_add_case("5x2x300 p=0.5", {5, 2, 300}, false, 0.5));
  cases.push_back(dropout_add_case("1x1x1 p=0.9", {1, 1, 1}, true, 0.9));
  cases.push_back(dropout_add_case("no rows", {0, 2, 8}, true, 0.1));
  OpCase wide = dropout_add_case("fp32 residual", {4, 2, 9}, true, 0.2);
  wide.operands[2].type = CaseOperand::Type::kAccumulator;
  wide.differentiable_operands = {0, 1};
  cases.push_back(wide);
  cases.push_back(dropout_add_case("2048x1024 p=0.1", {1024, 2, 1024}, true, 0.1));
  cases.back().speed = true;
  return cases;
}

inline std::vector<OpCase> dropout_cases() {
  std::vector<OpCase> cases;
  for (const Dims& shape : {Dims{7, 3, 129}, Dims{1, 1, 2}, Dims{0, 2, 5}, Dims{1024, 2, 1024}}) {
    OpCase c;
    c.name = to_string(shape);
    c.make = [](DType) { return dropout_kind({0.25, 7, "case"}); };
    c.operands = {{.name = "x", .shape = shape}};
    for (CaseOperand& operand : random_operands(shape[0], shape[1])) c.operands.push_back(operand);
    c.speed = shape[0] == 1024;
    cases.push_back(c);
  }
  return cases;
}

}  // namespace megatron
