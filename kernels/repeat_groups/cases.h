// Cases of repeat_groups.
#pragma once

#include <vector>

#include "kernels/cases.h"
#include "kernels/repeat_groups/repeat_groups.h"

namespace megatron {

inline OpCase repeat_groups_case(const std::string& name, int64_t times, const Dims& shape) {
  OpCase result;
  result.name = "repeat_groups " + name;
  result.make = [times](DType) { return repeat_groups_kind(times); };
  result.operands = {{"x", shape}};
  return result;
}

inline std::vector<OpCase> repeat_groups_cases() {
  std::vector<OpCase> cases = {
      repeat_groups_case("twice", 2, {5, 2, 3, 4}), repeat_groups_case("three times, one group", 3, {4, 1, 1, 7}),
      repeat_groups_case("once", 1, {2, 2, 2, 2}), repeat_groups_case("empty", 2, {0, 1, 2, 3}),
      repeat_groups_case("speed", 2, {8192, 1, 4, 128})};
  cases.back().speed = true;
  return cases;
}

}  // namespace megatron
