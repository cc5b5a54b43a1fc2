#pragma once

#include <vector>

#include "kernels/cases.h"
#include "kernels/embedding/embedding.h"

namespace megatron {

inline OpCase embedding_case(const std::string& name, const Dims& weight, const Dims& ids, int64_t limit) {
  OpCase c;
  c.name = name;
  c.make = [](DType) { return embedding_kind(); };
  c.operands = {{.name = "weight", .shape = weight},
                {.name = "ids",
                 .shape = ids,
                 .type = CaseOperand::Type::kInt32,
                 .fill = CaseOperand::Fill::kIndices,
                 .limit = limit}};
  return c;
}

inline std::vector<OpCase> embedding_cases() {
  std::vector<OpCase> cases;
  cases.push_back(embedding_case("table 11x5, ids 7x3", {11, 5}, {7, 3}, 11));
  cases.push_back(embedding_case("few ids, many repeats", {3, 9}, {65, 3}, 3));
  cases.push_back(embedding_case("ids beyond the table", {5, 4}, {9, 2}, 9));
  cases.push_back(embedding_case("one row", {1, 1}, {1, 1}, 1));
  cases.push_back(embedding_case("no tokens", {7, 4}, {0, 2}, 7));
  cases.push_back(embedding_case("several blocks", {1500, 6}, {70, 4}, 1500));
  cases.push_back(embedding_case("many tokens", {1500, 8}, {701, 2}, 1500));
  OpCase wide = embedding_case("fp32 result", {11, 5}, {7, 3}, 11);
  wide.make = [](DType compute) { return embedding_kind(accumulation_dtype(compute)); };
  cases.push_back(wide);
  OpCase speed = embedding_case("table 16384x1024, ids 1024x2", {16384, 1024}, {1024, 2}, 16384);
  speed.speed = true;
  cases.push_back(speed);
  return cases;
}

}  // namespace megatron
