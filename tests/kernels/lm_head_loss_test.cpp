// The fused head and cross entropy against a naive fp64 reference; its gradients against finite differences.
#include "kernels/lm_head_loss/lm_head_loss.h"

#include "base/error.h"
#include "direct_run.h"
#include "tests/catch.h"

namespace megatron {
namespace {

struct Problem {
  int64_t s, b, c, v, valid;
  Numbers x, w, labels, weights;
  double seed = 1.5;
};

Problem make_problem(int64_t s, int64_t b, int64_t c, int64_t v, int64_t valid, double scale = 0.5) {
  Problem p{s, b, c, v, valid, random_numbers(s * b * c, 1), random_numbers(v * c, 2, scale), {}, {}};
  for (int64_t i = 0; i < s * b; ++i) {
    p.labels.push_back(static_cast<double>((i * 31 + 7) % valid));
    p.weights.push_back(i % 5 == 2 ? 0.0 : 0.25 * static_cast<double>(1 + i % 4));
    if (i % 5 == 2) p.labels.back() = i % 2 == 0 ? -100 : 1e6;  // does not count, may be anything
  }
  return p;
}

double reference(const Problem& p, Numbers* tokens = nullptr) {
  double total = 0;
  for (int64_t i = 0; i < p.s * p.b; ++i) {
    const double weight = p.weights[static_cast<size_t>(i)];
    double nll = 0;
    if (weight != 0) {
      Numbers logits;
      for (int64_t j = 0; j < p.valid; ++j) {
        double z = 0;
        for (int64_t k = 0; k < p.c; ++k)
          z += p.x[static_cast<size_t>(i * p.c + k)] * p.w[static_cast<size_t>(j * p.c + k)];
        logits.push_back(z);
      }
      double top = logits[0], sum = 0;
      for (double z : logits) top = std::max(top, z);
      for (double z : logits) sum += std::exp(z - top);
      nll = top + std::log(sum) - logits[static_cast<size_t>(p.labels[static_cast<size_t>(i)])];
    }
    if (tokens != nullptr) tokens->push_back(nll);
    total += weight * nll;
  }
  return total;
}

std::vector<Owned> operands(const Problem& p, DType dtype) {
  return {make_owned(dtype, {p.s, p.b, p.c}, p.x), make_owned(dtype, {p.v, p.c}, p.w),
          make_owned(DType::kI32, {p.s, p.b}, p.labels), make_owned(DType::kF32, {p.s, p.b}, p.weights),
          make_owned(accumulation_dtype(dtype), {}, {p.seed})};
}

TEST_CASE("the head's loss equals the reference, also over several chunks and with padding rows", "[lm_head_loss]") {
  for (const Problem& p : {make_problem(7, 3, 5, 13, 13), make_problem(5, 2, 6, 32, 19), make_problem(1, 1, 3, 1, 1),
                           make_problem(700, 3, 3, 8, 5), make_problem(4, 2, 8, 11, 11, 300.0)}) {
    Numbers tokens;
    const double expected = reference(p, &tokens);
    for (const auto& [dtype, tolerance] : {std::pair{DType::kF64, 1e-13}, std::pair{DType::kF32, 2e-6}}) {
      const std::vector<Owned> got = run_kind(*lm_head_loss_kind(p.valid), operands(p, dtype));
      REQUIRE(relative_error(got[0].numbers(), {expected}) < tolerance);
      REQUIRE(relative_error(got[3].numbers(), tokens) < tolerance);
    }
    std::vector<Owned> ops = operands(p, DType::kBF16);
    Problem rounded = p;
    rounded.x = ops[0].numbers();
    rounded.w = ops[1].numbers();
    REQUIRE(relative_error(run_kind(*lm_head_loss_kind(p.valid), ops)[0].numbers(), {reference(rounded)}) < 2e-6);
  }
}

TEST_CASE("the head's gradients equal finite differences", "[lm_head_loss]") {
  for (const Problem& p :
       {make_problem(7, 3, 5, 13, 13), make_problem(5, 2, 6, 32, 19), make_problem(700, 3, 3, 8, 5)}) {
    const std::vector<Owned> exact = run_kind(*lm_head_loss_kind(p.valid), operands(p, DType::kF64));
    Numbers Problem::*const members[] = {&Problem::x, &Problem::w};
    for (size_t m = 0; m < 2; ++m) {
      const Numbers analytic = exact[1 + m].numbers();
      Numbers picked, expected;
      for (size_t i = 0; i < analytic.size(); i += std::max<size_t>(1, analytic.size() / 50)) {
        Problem up = p, down = p;
        (up.*members[m])[i] += 1e-5;
        (down.*members[m])[i] -= 1e-5;
        expected.push_back(p.seed * (reference(up) - reference(down)) / 2e-5);
        picked.push_back(analytic[i]);
      }
      REQUIRE(relative_error(picked, expected) < 1e-7);
    }
    const std::vector<Owned> single = run_kind(*lm_head_loss_kind(p.valid), operands(p, DType::kF32));
    const std::vector<Owned> half = run_kind(*lm_head_loss_kind(p.valid), operands(p, DType::kBF16));
    REQUIRE(half[2].tensor.dtype == DType::kF32);
    for (size_t r : {1u, 2u}) {
      REQUIRE(relative_error(single[r].numbers(), exact[r].numbers()) < 5e-6);
      REQUIRE(relative_error(half[r].numbers(), exact[r].numbers()) < 2e-2);
    }
    const Numbers dw = exact[2].numbers();
    for (size_t i = static_cast<size_t>(p.valid * p.c); i < dw.size(); ++i) REQUIRE(dw[i] == 0.0);
  }
}

TEST_CASE("the head accumulates, skips what nobody reads, and does not depend on threads", "[lm_head_loss]") {
  const Problem p = make_problem(700, 3, 6, 40, 37);
  const auto kind = lm_head_loss_kind(p.valid);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const std::vector<Owned> ops = operands(p, dtype);
    const std::vector<Owned> one = run_kind(*kind, ops, 1), three = run_kind(*kind, ops, 3);
    for (size_t r = 0; r < 4; ++r) REQUIRE(one[r].numbers() == three[r].numbers());
    const std::vector<Owned> loss_only = run_kind(*kind, ops, 2, {make_owned(DType::kF32, {}, {0}), {}, {}, {}});
    REQUIRE(loss_only[0].numbers() == one[0].numbers());
    const Owned sum = make_owned(DType::kF32, {}, {2.0});
    const Numbers before = random_numbers(p.v * p.c, 9);
    const Owned dw = make_owned(DType::kF32, {p.v, p.c}, before);
    run_kind(*kind, ops, 2, {sum, {}, dw, {}}, {1, 0, 1, 0});
    Numbers expected = one[2].numbers();
    for (size_t i = 0; i < expected.size(); ++i) expected[i] += before[i];
    REQUIRE(relative_error(dw.numbers(), expected) < 1e-6);
    REQUIRE(sum.numbers()[0] == Approx(one[0].numbers()[0] + 2.0).epsilon(1e-6));
  }
}

TEST_CASE("a label outside the vocabulary is named", "[lm_head_loss]") {
  for (const double label : {-1.0, 19.0}) {  // 19 is a padding row
    Problem p = make_problem(5, 2, 6, 32, 19);
    p.labels[7] = label;
    p.weights[7] = 1.0;
    try {
      run_kind(*lm_head_loss_kind(p.valid), operands(p, DType::kF32));
      FAIL("accepted");
    } catch (const DataError& error) {
      const std::string message = error.what();
      REQUIRE(message.find("position 3 of sample 1") != std::string::npos);
      REQUIRE(message.find("vocabulary of 19") != std::string::npos);
    }
  }
  const Problem p = make_problem(5, 2, 6, 32, 19);
  REQUIRE_THROWS_AS(run_kind(*lm_head_loss_kind(33), operands(p, DType::kF32)), PlacementError);
  REQUIRE_THROWS_AS(run_kind(*lm_head_loss_kind(0), operands(p, DType::kF32)), PlacementError);
}

}  // namespace
}  // namespace megatron
