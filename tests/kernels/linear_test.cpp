#include "kernels/linear/linear.h"

#include <vector>

#include "base/error.h"
#include "base/philox.h"
#include "base/thread_pool.h"
#include "kernels/linear/gemm_cpu.h"
#include "program/passes.h"
#include "tests/catch.h"

namespace megatron {
namespace {

Value input(Trace& t, const char* name, const Dims& shape, DType dtype = DType::kF32) {
  return t.input(name, dtype, shape, t.replicated());
}

TEST_CASE("the BLAS passes its own check") {
  CHECK_NOTHROW(verify_blas());
}

TEST_CASE("gemm with beta 0 does not read its target, with nothing to sum it scales") {
  ThreadPool pool(1);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> a = {1, 2, 3, 4}, b = {1, 0, 0, 1};
  std::vector<float> c(4, nan);
  gemm(GemmArgs<float>{false, false, 2, 2, 2, a.data(), 2, b.data(), 2, c.data(), 2, 0}, &pool);
  CHECK(c == a);
  gemm(GemmArgs<float>{false, false, 2, 2, 0, a.data(), 1, b.data(), 2, c.data(), 2, 2}, &pool);
  CHECK(c == std::vector<float>{2, 4, 6, 8});
  c.assign(4, nan);
  gemm(GemmArgs<float>{false, false, 2, 2, 0, a.data(), 1, b.data(), 2, c.data(), 2, 0}, &pool);
  CHECK(c == std::vector<float>{0, 0, 0, 0});
}

TEST_CASE("gemm gives the same bits for any number of threads") {
  const int64_t m = 401, n = 1030, k = 77;
  std::vector<float> a(static_cast<size_t>(m * k)), b(static_cast<size_t>(n * k));
  for (size_t i = 0; i < a.size(); ++i) a[i] = static_cast<float>(philox_normal(1, i));
  for (size_t i = 0; i < b.size(); ++i) b[i] = static_cast<float>(philox_normal(2, i));
  std::vector<std::vector<float>> results;
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    results.emplace_back(static_cast<size_t>(m * n));
    gemm(GemmArgs<float>{false, true, m, n, k, a.data(), k, b.data(), k, results.back().data(), n, 0}, &pool);
  }
  CHECK(results[0] == results[1]);
  CHECK(results[0] == results[2]);
}

TEST_CASE("linear shapes follow the weight") {
  Program program;
  Trace t(program);
  const Value qkv = linear(t, input(t, "x", {5, 2, 12}), input(t, "w", {2, 4, 3, 12}), {}, {3, 1});
  CHECK(t.shape(qkv) == Dims{5, 2, 2, 4, 3});
  const Value out = linear(t, input(t, "a", {5, 2, 2, 2, 3}), input(t, "p", {12, 2, 2, 3}), {}, {1, 3});
  CHECK(t.shape(out) == Dims{5, 2, 12});
}

TEST_CASE("linear refuses operands that do not fit") {
  Program program;
  Trace t(program);
  const Value x = input(t, "x", {5, 2, 12});
  CHECK_THROWS_AS(linear(t, x, input(t, "w", {7, 11})), InternalError);
  CHECK_THROWS_AS(linear(t, x, input(t, "w3", {7, 2, 12})), InternalError);
  CHECK_THROWS_AS(linear(t, x, input(t, "wide", {7, 12}, DType::kF64)), InternalError);
  CHECK_THROWS_AS(linear(t, x, input(t, "v", {7, 12}), input(t, "b", {8})), InternalError);
}

TEST_CASE("placements of column- and row-parallel linear layers") {
  Program program;
  program.mesh.axes = {{"tp", 2, 0}};
  Trace t(program);
  const Placement rows = {AxisPlacement::S(0)}, columns = {AxisPlacement::S(1)};
  const Value x = t.input("x", DType::kF32, {5, 2, 12}, t.replicated());
  const Value w = t.parameter("w", DType::kF32, {8, 12}, rows, Init::normal(1));
  const Value b = t.parameter("b", DType::kF32, {8}, rows, Init::constant(0));
  const Value h = linear(t, x, w, b);
  CHECK(t.info(h).placement[0] == AxisPlacement::S(2));
  const Value v = t.parameter("v", DType::kF32, {12, 8}, columns, Init::normal(1));
  CHECK(t.info(linear(t, h, v)).placement[0] == AxisPlacement::P());
  // A bias would be added once a rank.
  const Value c = t.parameter("c", DType::kF32, {12}, t.replicated(), Init::constant(0));
  CHECK_THROWS_AS(linear(t, h, v, c), InternalError);
}

}  // namespace
}  // namespace megatron
