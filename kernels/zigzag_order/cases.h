// Cases of zigzag_order.
#pragma once

#include <vector>

#include "kernels/cases.h"
#include "kernels/zigzag_order/zigzag_order.h"

namespace megatron {

inline OpCase zigzag_order_case(const std::string& name, int64_t ranks, const Dims& shape, SequenceOrder to) {
  OpCase result;
  result.name = "zigzag_order " + name;
  result.make = [ranks, to](DType) { return zigzag_order_kind(ranks, to); };
  result.operands = {{"x", shape}};
  return result;
}

inline std::vector<OpCase> zigzag_order_cases() {
  constexpr SequenceOrder kNatural = SequenceOrder::kNatural, kZigzag = SequenceOrder::kZigzag;
  std::vector<OpCase> cases = {zigzag_order_case("2 ranks", 2, {8, 3, 5}, kNatural),
                               zigzag_order_case("3 ranks, back", 3, {12, 2, 1, 7}, kZigzag),
                               zigzag_order_case("one row a chunk", 4, {8}, kNatural),
                               zigzag_order_case("empty", 2, {4, 0, 3}, kZigzag),
                               zigzag_order_case("speed", 2, {8192, 1, 8, 128}, kNatural)};
  cases.back().speed = true;
  return cases;
}

}  // namespace megatron
