// Cases of spread_groups, on one rank.
#pragma once

#include <vector>

#include "kernels/cases.h"
#include "kernels/spread_groups/spread_groups.h"

namespace megatron {

inline OpCase spread_groups_case(const std::string& name, int64_t parts, const Dims& shape) {
  OpCase result;
  result.name = "spread_groups " + name;
  result.make = [parts](DType) { return spread_groups_kind(parts, ""); };
  result.operands = {{"w", shape}};
  return result;
}

inline std::vector<OpCase> spread_groups_cases() {
  std::vector<OpCase> cases = {spread_groups_case("odd", 3, {2, 8, 5, 3}), spread_groups_case("bias", 2, {1, 4, 3}),
                               spread_groups_case("one part", 1, {3, 3, 2}), spread_groups_case("empty", 2, {2, 6, 0}),
                               spread_groups_case("speed", 4, {2, 18, 128, 1024})};
  cases.back().speed = true;
  return cases;
}

}  // namespace megatron
