// Every case of every operation: value, gradient, repeatability.
#include <algorithm>

#include "base/strings.h"
#include "kernels/all_cases.h"
#include "tests/catch.h"

namespace megatron {
namespace {

constexpr DType kFloating[] = {DType::kF64, DType::kF32, DType::kBF16, DType::kF16};

void require(const std::string& op, const OpCase& c, const std::string& what, const CaseResult& result) {
  INFO(op << ": " << c.name << ": " << what << ": " << result.message);
  CHECK(result.passed);
}

TEST_CASE("operations agree with fp64 on the same rounded inputs") {
  for (const OpCases& op : all_op_cases()) {
    for (const OpCase& c : op.cases) {
      if (c.speed) continue;
      for (const DType dtype : kFloating) require(op.op, c, std::string(name_of(dtype)), test_case(c, dtype));
    }
  }
}

TEST_CASE("gradients agree with finite differences") {
  for (const OpCases& op : all_op_cases()) {
    for (const OpCase& c : op.cases) {
      if (!c.speed) require(op.op, c, "gradient", gradient_case(c));
    }
  }
}

TEST_CASE("results do not depend on threads or memory reuse") {
  for (const OpCases& op : all_op_cases()) {
    for (const OpCase& c : op.cases) {
      if (c.speed) continue;
      for (const DType dtype : {DType::kF32, DType::kBF16}) {
        require(op.op, c, std::string(name_of(dtype)), bitwise_case(c, dtype));
      }
    }
  }
}

TEST_CASE("every operation has a small case and a name of its own") {
  std::string last;
  for (const OpCases& op : all_op_cases()) {
    CHECK(last < op.op);
    last = op.op;
    CHECK(std::any_of(op.cases.begin(), op.cases.end(), [](const OpCase& c) { return !c.speed; }));
  }
}

}  // namespace
}  // namespace megatron
