#pragma once

#include <string>
#include <vector>

#include "kernels/activation/activation.h"
#include "kernels/cases.h"

namespace megatron {

inline OpCase activation_case(ActivationKind kind, bool gated, const Dims& shape, double scale) {
  OpCase c;
  c.name = std::string(name_of(kind)) + " " + to_string(shape) + (scale > 5 ? " large values" : "");
  c.make = [kind, gated](DType) { return gated ? gated_activation_kind(kind) : activation_kind(kind); };
  c.operands = {{.name = "x", .shape = shape, .scale = scale}};
  return c;
}

inline std::vector<OpCase> activation_cases() {
  std::vector<OpCase> cases;
  for (const ActivationKind kind : kAllActivations) {
    cases.push_back(activation_case(kind, false, {7, 3, 33}, 2.0));
    cases.push_back(activation_case(kind, false, {5, 3, 7}, 50.0));
    cases.push_back(activation_case(kind, false, {0, 3, 7}, 1.0));
    cases.push_back(activation_case(kind, false, {1, 1, 1}, 1.0));
    cases.push_back(activation_case(kind, false, {1024, 2, 1024}, 1.0));
    cases.back().speed = true;
    if (kind == ActivationKind::kRelu || kind == ActivationKind::kSquaredRelu)
      continue;  // no derivative at 0 to compare
    cases.push_back(activation_case(kind, false, {6, 2, 9}, 1.0));
    cases.back().name += " zero rows";
    cases.back().operands[0].fill = CaseOperand::Fill::kZeroRows;
  }
  return cases;
}

inline std::vector<OpCase> gated_activation_cases() {
  std::vector<OpCase> cases;
  for (const ActivationKind kind : kAllActivations) {
    cases.push_back(activation_case(kind, true, {7, 3, 2, 33}, 1.5));
    cases.push_back(activation_case(kind, true, {5, 3, 2, 7}, kind == ActivationKind::kSquaredRelu ? 8.0 : 20.0));
    cases.push_back(activation_case(kind, true, {0, 3, 2, 7}, 1.0));
    cases.push_back(activation_case(kind, true, {2, 1}, 1.0));
  }
  cases.push_back(activation_case(ActivationKind::kSilu, true, {512, 2, 2, 1024}, 1.0));
  cases.back().speed = true;
  return cases;
}

}  // namespace megatron
