// Cases of gather_rows.
#pragma once

#include <vector>

#include "kernels/cases.h"
#include "kernels/gather_rows/gather_rows.h"

namespace megatron {

inline OpCase gather_rows_case(const std::string& name, int64_t s, int64_t b, int64_t c) {
  OpCase result;
  result.name = "gather_rows " + name;
  result.make = [](DType) { return gather_rows_kind(); };
  result.operands = {{"x", {s, b, c}},
                     {"index", {b}, CaseOperand::Type::kInt32, CaseOperand::Fill::kIndices, 1.0, 0.0, s}};
  return result;
}

inline std::vector<OpCase> gather_rows_cases() {
  std::vector<OpCase> cases = {gather_rows_case("odd", 7, 3, 5), gather_rows_case("one", 1, 1, 1),
                               gather_rows_case("empty batch", 4, 0, 5), gather_rows_case("speed", 1024, 64, 1024)};
  cases.back().speed = true;
  return cases;
}

}  // namespace megatron
