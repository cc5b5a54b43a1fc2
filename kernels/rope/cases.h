// Cases of the rotary position embedding.
#pragma once

#include <vector>

#include "kernels/cases.h"
#include "kernels/rope/rope.h"

namespace megatron {

inline OpCase rope_case(const std::string& name, const Dims& shape, RopeSpec spec, int64_t positions = 0) {
  using Fill = CaseOperand::Fill;
  spec.head_dim = shape.back();
  OpCase c;
  c.name = "rope " + name;
  c.make = [spec](DType) { return rope_kind(spec); };
  c.operands = {{"x", shape},
                {"position",
                 {shape[0], shape[1]},
                 CaseOperand::Type::kInt32,
                 positions > 0 ? Fill::kIndices : Fill::kRamp,
                 1.0,
                 0.0,
                 positions > 0 ? positions : 1}};
  return c;
}

inline std::vector<OpCase> rope_cases() {
  RopeSpec plain, partial, pairs, llama3, yarn, stretched;
  partial.percent = 0.5;
  pairs.interleaved = true;
  pairs.percent = 0.5;
  llama3.base = 500000.0;
  llama3.llama3.on = true;
  yarn.base = 150000.0;
  yarn.yarn.on = true;
  yarn.yarn.factor = 32.0;
  stretched.seq_len_interpolation_factor = 4.0;
  RopeSpec none;
  none.percent = 0.0;
  std::vector<OpCase> cases = {
      rope_case("heads", {7, 2, 3, 8}, plain),
      rope_case("groups", {5, 3, 2, 3, 6}, plain),
      rope_case("one channel pair", {1, 1, 1, 2}, plain),
      rope_case("no head dimension", {4, 2, 6}, plain),
      rope_case("partial", {6, 2, 3, 12}, partial),
      rope_case("interleaved partial", {6, 2, 3, 12}, pairs),
      rope_case("nothing rotates", {3, 2, 2, 4}, none),
      rope_case("llama 3", {6, 2, 2, 64}, llama3, 8192),
      rope_case("yarn", {6, 2, 2, 64}, yarn, 131072),
      rope_case("interpolated", {9, 1, 2, 16}, stretched, 4096),
      rope_case("empty", {0, 2, 3, 8}, plain),
      rope_case("speed", {2048, 4, 8, 128}, plain),
  };
  cases.back().speed = true;
  return cases;
}

}  // namespace megatron
