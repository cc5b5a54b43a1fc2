// Known values of activations, norms, embedding and casts.
#include <cmath>
#include <limits>
#include <vector>

#include "base/error.h"
#include "base/thread_pool.h"
#include "kernels/activation/activation.h"
#include "kernels/cast/cast.h"
#include "kernels/embedding/embedding.h"
#include "kernels/layernorm/layernorm.h"
#include "kernels/rmsnorm/rmsnorm.h"
#include "kernels/vector_math.h"
#include "tests/catch.h"

namespace megatron {
namespace {

double evaluate(ActivationKind kind, double x) {
  ThreadPool pool(1);
  double y = 0;
  activation_cpu({make_tensor(&x, DType::kF64, {1}), make_tensor(&y, DType::kF64, {1}), kind}, &pool);
  return y;
}

TEST_CASE("activations at known points") {
  // The defining formulas, evaluated as they stand.
  for (const double x : {-3.0, -1.0, -0.1, 0.0, 0.5, 2.0}) {
    const double u = std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x);
    CHECK(evaluate(ActivationKind::kGeluTanh, x) == Approx(0.5 * x * (1 + std::tanh(u))).margin(1e-15));
    CHECK(evaluate(ActivationKind::kGeluErf, x) == Approx(0.5 * x * (1 + std::erf(x / std::sqrt(2.0)))).margin(1e-15));
    CHECK(evaluate(ActivationKind::kSilu, x) == Approx(x / (1 + std::exp(-x))).margin(1e-15));
    CHECK(evaluate(ActivationKind::kQuickGelu, x) == Approx(x / (1 + std::exp(-1.702 * x))).margin(1e-15));
    CHECK(evaluate(ActivationKind::kRelu, x) == std::max(x, 0.0));
    CHECK(evaluate(ActivationKind::kSquaredRelu, x) == Approx(std::max(x, 0.0) * std::max(x, 0.0)));
  }
  CHECK(evaluate(ActivationKind::kGeluErf, 1.0) == Approx(0.8413447460685429));
}

TEST_CASE("activations pass NaN on and stay finite far out") {
  for (const ActivationKind kind : kAllActivations) {
    CHECK(std::isnan(evaluate(kind, std::numeric_limits<double>::quiet_NaN())));
    CHECK(std::isfinite(evaluate(kind, 1e4)));
    CHECK(evaluate(kind, -1e4) == Approx(0).margin(1e-280));
  }
}

TEST_CASE("vector_exp is exact to two units in the last place") {
  double worst = 0;
  for (double x = -87; x < 88.7; x += 0.00371) {
    const float argument = static_cast<float>(x);
    const double expected = std::exp(static_cast<double>(argument));
    worst = std::max(worst, std::abs(static_cast<double>(vector_exp(argument)) - expected) / expected);
  }
  CHECK(worst < 2 * std::ldexp(1.0, -23));
  CHECK(vector_exp(0.0f) == 1.0f);
  CHECK(vector_exp(-200.0f) == 0.0f);
  CHECK(vector_exp(200.0f) == std::numeric_limits<float>::infinity());
  CHECK(vector_exp(-std::numeric_limits<float>::infinity()) == 0.0f);
  CHECK(std::isnan(vector_exp(std::numeric_limits<float>::quiet_NaN())));
}

TEST_CASE("norms by hand") {
  ThreadPool pool(1);
  std::vector<double> x = {3, 4}, gamma = {2, -1}, beta = {10, 20}, y(2), sum(2), rstd(1), mean(1);
  const auto vec = [](std::vector<double>& v) {
    return make_tensor(v.data(), DType::kF64, {static_cast<int64_t>(v.size())});
  };
  const auto scalar = [](std::vector<double>& v) { return make_tensor(v.data(), DType::kF64, {}); };
  rmsnorm_cpu({vec(x), vec(gamma), {}, vec(y), {}, scalar(rstd), {0, false}}, &pool);
  CHECK(y[0] == Approx(6 / std::sqrt(12.5)));
  CHECK(y[1] == Approx(-4 / std::sqrt(12.5)));
  rmsnorm_cpu({vec(x), vec(gamma), vec(x), vec(y), vec(sum), {}, {0, true}}, &pool);  // sum = (6, 8)
  CHECK(sum == std::vector<double>{6, 8});
  CHECK(y[0] == Approx(18 / std::sqrt(50)));
  CHECK(y[1] == Approx(0).margin(1e-15));
  layernorm_cpu({vec(x), vec(gamma), vec(beta), {}, vec(y), {}, scalar(rstd), scalar(mean), {0, false}}, &pool);
  CHECK(mean[0] == 3.5);
  CHECK(y[0] == Approx(8));   // -1 * 2 + 10
  CHECK(y[1] == Approx(19));  // 1 * -1 + 20
}

TEST_CASE("a norm reads a strided view") {
  ThreadPool pool(1);
  std::vector<double> x = {3, 4, 100, 6, 8, 100}, gamma = {1, 1}, y(4);
  Tensor view = make_tensor(x.data(), DType::kF64, {2, 2});
  view.strides[0] = 3;
  rmsnorm_cpu({view,
               make_tensor(gamma.data(), DType::kF64, {2}),
               {},
               make_tensor(y.data(), DType::kF64, {2, 2}),
               {},
               {},
               {0, false}},
              &pool);
  CHECK(y[0] == Approx(3 / std::sqrt(12.5)));
  CHECK(y[2] == Approx(y[0]));
  CHECK(y[3] == Approx(y[1]));
}

TEST_CASE("a rank's part of the table gives zero rows for the ids of other ranks") {
  ThreadPool pool(2);
  std::vector<float> weight = {1, 2, 3, 4}, y(8), dweight(4),
                     dy = {1, 1, 2, 2, 4, 4, 8, 8};  // rows 2 and 3 of the table
  std::vector<int32_t> ids = {3, 0, 2, 3};
  const Tensor table = make_tensor(weight.data(), DType::kF32, {2, 2}),
               tokens = make_tensor(ids.data(), DType::kI32, {2, 2});
  embedding_cpu({table, tokens, make_tensor(y.data(), DType::kF32, {2, 2, 2}), 2}, &pool);
  CHECK(y == std::vector<float>{3, 4, 0, 0, 1, 2, 3, 4});
  embedding_backward_cpu({make_tensor(dy.data(), DType::kF32, {2, 2, 2}), tokens,
                          make_tensor(dweight.data(), DType::kF32, {2, 2}), 2, false},
                         &pool);
  CHECK(dweight == std::vector<float>{4, 4, 9, 9});
  ids = {-1, -2, 4, 100};
  embedding_cpu({table, tokens, make_tensor(y.data(), DType::kF32, {2, 2, 2}), 0}, &pool);
  CHECK(y == std::vector<float>(8, 0.0f));
}

TEST_CASE("a row-sharded embedding is partial and its weight gradient is sharded alike") {
  Program program;
  program.mesh.axes = {{"tp", 2, 1}};
  Trace t(program);
  const Value w = t.parameter("w", DType::kF32, {6, 4}, {AxisPlacement::S(0)}, Init::normal(1));
  const Value ids = t.input("ids", DType::kI32, {3, 2}, t.replicated());
  CHECK(t.info(embedding(t, w, ids)).placement[0] == AxisPlacement::P());
  CHECK(t.dtype(embedding(t, w, ids, DType::kF64)) == DType::kF64);
  CHECK_THROWS_AS(embedding(t, w, t.input("wrong", DType::kI64, {3, 2}, t.replicated())), InternalError);
}

TEST_CASE("a cast rounds to nearest even and keeps what is not finite") {
  ThreadPool pool(1);
  std::vector<float> x = {1.00390625f, 1.01171875f, 1e30f, -std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN()};
  std::vector<BFloat16> y(5);
  cast_cpu({make_tensor(x.data(), DType::kF32, {5}), make_tensor(y.data(), DType::kBF16, {5})}, &pool);
  CHECK(static_cast<float>(y[0]) == 1.0f);       // halfway, to even
  CHECK(static_cast<float>(y[1]) == 1.015625f);  // halfway, to even
  CHECK(static_cast<float>(y[2]) == Approx(1e30f).epsilon(0.004));
  CHECK(static_cast<float>(y[3]) == -std::numeric_limits<float>::infinity());
  CHECK(std::isnan(static_cast<float>(y[4])));
  Program program;
  Trace t(program);
  const Value v = t.input("v", DType::kF32, {2}, t.replicated());
  CHECK(cast(t, v, DType::kF32) == v);
}

}  // namespace
}  // namespace megatron
