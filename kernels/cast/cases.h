#pragma once

#include <vector>

#include "kernels/cases.h"
#include "kernels/cast/cast.h"

namespace megatron {

inline std::vector<OpCase> cast_cases() {
  std::vector<OpCase> cases;
  for (const DType to : {DType::kF64, DType::kF32, DType::kBF16, DType::kF16}) {
    for (const Dims& shape : {Dims{7, 3, 33}, Dims{}, Dims{0, 4}}) {
      OpCase c;
      c.name = to_string(shape) + " to " + std::string(name_of(to));
      // The reference, which is computed in fp64, must not round: it converts to fp64.
      c.make = [to](DType compute) { return cast_kind(compute == DType::kF64 ? DType::kF64 : to); };
      c.operands = {{.name = "x", .shape = shape}};
      cases.push_back(c);
    }
  }
  OpCase speed = cases.front();
  speed.name = "2048x1024 to fp32";
  speed.make = [](DType) { return cast_kind(DType::kF32); };
  speed.operands[0].shape = {1024, 2, 1024};
  speed.speed = true;
  cases.push_back(speed);
  return cases;
}

inline std::vector<OpCase> fill_zero_cases() {
  std::vector<OpCase> cases;
  for (const Dims& shape : {Dims{7, 3, 33}, Dims{}, Dims{0, 4}, Dims{1024, 2048}}) {
    OpCase c;
    c.name = to_string(shape);
    c.make = [](DType) { return fill_zero_kind(); };
    c.operands = {{.name = "state", .shape = shape, .state = true}};
    c.differentiable_results = {};
    c.speed = shape.numel() > 1000000;
    cases.push_back(c);
  }
  return cases;
}

}  // namespace megatron
