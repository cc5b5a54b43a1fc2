#pragma once

#include <vector>

#include "kernels/cases.h"
#include "kernels/rmsnorm/rmsnorm.h"

namespace megatron {

inline OpCase rmsnorm_case(const std::string& name, const Dims& x, bool residual, const NormOptions& options) {
  OpCase c;
  c.name = name;
  c.make = [options](DType) { return rmsnorm_kind(options); };
  CaseOperand r{.name = "residual", .shape = x};
  if (!residual) r.fill = CaseOperand::Fill::kAbsent;
  c.operands = {{.name = "x", .shape = x},
                {.name = "gamma", .shape = {x.back()}, .scale = 0.3, .shift = options.zero_centered ? 0.0 : 1.0},
                r};
  c.differentiable_results = residual ? std::vector<int>{0, 1} : std::vector<int>{0};
  return c;
}

inline std::vector<OpCase> rmsnorm_cases() {
  std::vector<OpCase> cases;
  cases.push_back(rmsnorm_case("7x3x129", {7, 3, 129}, false, {}));
  cases.push_back(rmsnorm_case("7x3x129 zero-centred residual", {7, 3, 129}, true, {1e-6, true}));
  cases.push_back(rmsnorm_case("67x5x32 residual", {67, 5, 32}, true, {}));
  cases.push_back(rmsnorm_case("query norm 3x2x2x4x8", {3, 2, 2, 4, 8}, false, {1e-6, false}));
  cases.push_back(rmsnorm_case("1x1x3", {1, 1, 3}, false, {}));
  cases.push_back(rmsnorm_case("one vector", {17}, false, {}));
  cases.push_back(rmsnorm_case("no rows", {0, 2, 8}, true, {}));
  OpCase rows = rmsnorm_case("zero rows", {7, 2, 16}, false, {});
  rows.operands[0].fill = CaseOperand::Fill::kZeroRows;
  cases.push_back(rows);
  OpCase large = rmsnorm_case("large values", {5, 2, 48}, false, {});
  large.operands[0].scale = 3e3;
  cases.push_back(large);
  OpCase speed = rmsnorm_case("2048x1024 residual", {1024, 2, 1024}, true, {});
  speed.speed = true;
  cases.push_back(speed);
  return cases;
}

}  // namespace megatron
