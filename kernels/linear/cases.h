#pragma once

#include <vector>

#include "kernels/cases.h"
#include "kernels/linear/linear.h"

namespace megatron {

inline OpCase linear_case(const std::string& name, const Dims& x, const Dims& w, const Dims& bias,
                          const LinearOptions& options) {
  OpCase c;
  c.name = name;
  c.make = [options](DType) { return linear_kind(options); };
  CaseOperand b{.name = "bias", .shape = bias};
  if (bias.rank() == 0) b.fill = CaseOperand::Fill::kAbsent;
  c.operands = {{.name = "x", .shape = x}, {.name = "w", .shape = w, .scale = 0.5}, b};
  return c;
}

inline std::vector<OpCase> linear_cases() {
  std::vector<OpCase> cases;
  cases.push_back(linear_case("[3,2,5] x [7,5]", {3, 2, 5}, {7, 5}, {}, {}));
  cases.push_back(linear_case("[3,2,33] x [17,33] + bias", {3, 2, 33}, {17, 33}, {17}, {}));
  cases.push_back(linear_case("one row", {1, 1, 65}, {9, 65}, {9}, {}));
  cases.push_back(linear_case("one column", {4, 3, 1}, {1, 1}, {1}, {}));
  cases.push_back(linear_case("no rows", {0, 2, 5}, {7, 5}, {7}, {}));
  cases.push_back(linear_case("nothing to sum", {2, 2, 0}, {3, 0}, {3}, {}));
  cases.push_back(linear_case("several tiles", {67, 3, 70}, {523, 70}, {523}, {}));
  cases.push_back(linear_case("several panels", {1031, 1, 8}, {12, 8}, {12}, {}));
  cases.push_back(linear_case("qkv [g,q+2,d,c]", {3, 2, 12}, {2, 4, 3, 12}, {2, 4, 3}, {3, 1}));
  cases.push_back(linear_case("attention projection", {3, 2, 2, 2, 3}, {12, 2, 2, 3}, {}, {1, 3}));
  cases.push_back(linear_case("gated first layer", {3, 2, 12}, {2, 9, 12}, {2, 9}, {2, 1}));
  OpCase rows = linear_case("zero rows", {6, 2, 16}, {5, 16}, {5}, {});
  rows.operands[0].fill = CaseOperand::Fill::kZeroRows;
  cases.push_back(rows);
  OpCase large = linear_case("large values", {4, 2, 16}, {5, 16}, {}, {});
  large.operands[0].scale = 1e3;
  cases.push_back(large);
  OpCase speed = linear_case("512x1024 x 1024x1024", {256, 2, 1024}, {1024, 1024}, {}, {});
  speed.speed = true;
  cases.push_back(speed);
  return cases;
}

inline std::vector<OpCase> bias_gradient_cases() {
  std::vector<OpCase> cases;
  for (const Dims& shape : {Dims{3, 2, 5}, Dims{1, 1, 1}, Dims{0, 2, 5}, Dims{517, 3, 33}}) {
    OpCase c;
    c.name = to_string(shape);
    c.make = [](DType) { return bias_gradient_kind(1); };
    c.operands = {{.name = "dy", .shape = shape}};
    c.differentiable_results = {};
    cases.push_back(c);
  }
  cases.push_back(cases.back());
  cases.back().name = "speed 2048x1024";
  cases.back().operands[0].shape = {1024, 2, 1024};
  cases.back().speed = true;
  return cases;
}

}  // namespace megatron
