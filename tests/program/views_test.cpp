#include "program/views.h"

#include "program/elementwise.h"
#include "tests/catch.h"
#include "tests/program/rig.h"

using namespace megatron;
using namespace megatron::tiny;

namespace {

constexpr auto R = AxisPlacement::R;
constexpr auto S = AxisPlacement::S;
constexpr auto P = AxisPlacement::P;

struct Fake {
  Program program;
  Trace t{program};
  explicit Fake(std::vector<MeshAxis> axes = {}) { program.mesh.axes = std::move(axes); }
  Value input(const Dims& shape, const Placement& placement) {
    return t.input("x" + std::to_string(program.values.size()), DType::kF64, shape, placement);
  }
  /// Placement of a reshape, or the message of its refusal.
  std::string reshaped(const Dims& from, const Placement& placement, const Dims& to) {
    std::string text;
    const std::string error = message_of([&] {
      const Value y = reshape(t, input(from, placement), to);
      verify(program);
      CHECK(program.local_shape(y.id).numel() ==
            program.local_shape(program.op(program.value(y.id).producer).operands[0]).numel());
      text = to_string(t.info(y).placement, program.mesh);
    });
    return error.empty() ? text : error;
  }
};

}  // namespace

TEST_CASE("strides of reshaped memory") {
  CHECK(reshaped_strides({4, 6}, {6, 1}, {2, 2, 6}) == Dims{12, 6, 1});
  CHECK(reshaped_strides({4, 6}, {10, 1}, {2, 2, 6}) == Dims{20, 10, 1});
  CHECK(reshaped_strides({4, 6}, {10, 1}, {4, 2, 3}) == Dims{10, 3, 1});
  CHECK(reshaped_strides({4, 1, 6}, {10, 6, 1}, {4, 6}) == Dims{10, 1});
  CHECK(reshaped_strides({2, 3, 1, 5}, {100, 20, 5, 1}, {2, 3, 5}) == Dims{100, 20, 1});
  CHECK_THROWS_AS(reshaped_strides({4, 6}, {10, 1}, {24}), PlacementError);
  CHECK_THROWS_AS(reshaped_strides({4, 2, 3}, {10, 3, 1}, {8, 3}), PlacementError);
}

TEST_CASE("a reshape keeps the shard that stays outermost") {
  Fake f({{"tp", 2, 1}});
  CHECK(f.reshaped({8, 6}, {S(0)}, {2, 4, 6}) == "tp:S(0)");
  CHECK(f.reshaped({4, 2, 6}, {S(0)}, {8, 6}) == "tp:S(0)");
  CHECK(f.reshaped({4, 12}, {S(1)}, {4, 2, 6}) == "tp:S(1)");
  CHECK(f.reshaped({4, 2, 6}, {S(1)}, {4, 12}) == "tp:S(1)");
  CHECK(f.reshaped({4, 6}, {P()}, {24}) == "tp:P");
  CHECK(f.reshaped({4, 6}, {R()}, {24}) == "R");
  SECTION("dimensions of size 1 do not matter") {
    CHECK(f.reshaped({4, 1, 6}, {S(2)}, {4, 6}) == "tp:S(1)");
    CHECK(contains(f.reshaped({4, 1, 6}, {S(2)}, {4, 3, 2}), "would mix"));
    CHECK(f.reshaped({4, 6}, {S(1)}, {4, 1, 6}) == "tp:S(2)");
    CHECK(f.reshaped({4, 6}, {S(0)}, {1, 4, 6}) == "tp:S(1)");
    CHECK(f.reshaped({4, 6, 1}, {S(1)}, {4, 6}) == "tp:S(1)");
    CHECK(f.reshaped({4, 6}, {S(1)}, {4, 6, 1}) == "tp:S(1)");
  }
}

TEST_CASE("a reshape that would mix blocks is refused") {
  Fake f({{"tp", 2, 0}});
  const std::string inner = f.reshaped({4, 6}, {S(1)}, {24});
  CHECK(contains(inner, "would mix the blocks of dimension 1, which is sharded over tp"));
  CHECK(contains(inner, "gather first"));
  CHECK(contains(f.reshaped({4, 2, 6}, {S(1)}, {8, 6}), "would mix"));
  CHECK(contains(f.reshaped({6, 4}, {S(0)}, {3, 2, 4}), "would mix"));  // blocks of 3 rows, or of 2 and 1 pairs
  CHECK(contains(f.reshaped({3, 2, 4}, {S(0)}, {6, 4}), "would mix"));
  CHECK(contains(f.reshaped({4, 6}, {R()}, {25}), "cannot reshape [4, 6] to [25]"));
  SECTION("two axes on one dimension: the inner one cuts what the outer one leaves") {
    Fake g({{"tp", 2, 0}, {"dp", 2, 1}});
    CHECK(g.reshaped({8, 3}, {S(0), S(0)}, {4, 2, 3}) == "tp:S(0) dp:S(0)");
    CHECK(contains(g.reshaped({4, 3}, {S(0), S(0)}, {2, 2, 3}), "would mix the blocks of dimension 0"));
    CHECK(g.reshaped({4, 6}, {S(1), S(0)}, {2, 2, 6}) == "tp:S(2) dp:S(0)");
  }
}

TEST_CASE("parts of a split are views with offsets, also of views and of sharded values") {
  Fake f({{"tp", 2, 0}});
  const Value x = f.input({4, 6, 5}, {S(0)});
  const auto parts = split(f.t, x, 1, {4, 1, 1});
  REQUIRE(parts.size() == 3);
  CHECK(f.t.shape(parts[0]) == Dims{4, 4, 5});
  CHECK(f.program.local_shape(parts[1].id) == Dims{2, 1, 5});
  CHECK(f.t.info(parts[1]).storage.root == x.id);
  CHECK(f.t.info(parts[2]).storage.offset == 25);
  CHECK(f.t.info(parts[2]).storage.strides == Dims{30, 5, 1});
  const auto halves = split(f.t, split(f.t, x, 1, {2, 4})[1], 1, {2, 2});
  CHECK(f.t.info(halves[0]).storage.offset == 10);
  CHECK(f.t.info(halves[1]).storage.offset == 20);
  CHECK(f.t.info(halves[1]).storage.strides == Dims{30, 5, 1});
  CHECK(reshape(f.t, halves[1], {4, 2, 5}) == halves[1]);
  CHECK(f.t.info(reshape(f.t, parts[1], {4, 5})).storage.strides == Dims{30, 1});
  CHECK(contains(message_of([&] { split(f.t, x, 1, {4, 1}); }), "add up to 5"));
  CHECK(contains(message_of([&] { split(f.t, x, 0, {2, 2}); }), "the split dimension is sharded"));
  CHECK(contains(message_of([&] { split(f.t, x, -1, {2, 3}); }), "parts of dimension -1"));
  // an operation that reads contiguously names the remedy
  const Value w = param(f.t, "w", {5, 5});
  CHECK(contains(message_of([&] { matmul(f.t, parts[0], w); }), "insert contiguous()"));
  CHECK(message_of([&] { matmul(f.t, contiguous(f.t, parts[0]), w); }) == "");
  CHECK(contiguous(f.t, x) == x);
}

namespace {

/// qkv-like: one matmul, split in three, each part used, one of them through a reshape.
Program split_program(bool third_used) {
  Program program;
  Trace t(program, true);
  const Value x = t.input("x", DType::kF64, {4, 3}, {});
  const Value y = reshape(t, matmul(t, x, param(t, "w", {10, 3})), {4, 5, 2});
  const auto parts = split(t, y, 1, {3, 1, 1});
  Value z = sum(t, tiny::tanh(t, parts[0]));
  const Value k = reshape(t, parts[1], {4, 2});
  const Value v = third_used ? reshape(t, parts[2], {4, 2}) : k;
  add_loss(t, z);
  add_loss(t, sum(t, mul(t, tiny::tanh(t, k), scale(t, v, 0.5))));
  differentiate(program);
  remove_dead_ops(program);
  return program;
}

}  // namespace

TEST_CASE("the gradient of a split is joined without a copy") {
  const Program program = split_program(true);
  Rig rig(program);
  int joins = 0;
  const Plan& plan = rig.executor().plan();
  for (OpId id : plan.program.list(Phase::kBackward)) {
    const Op& op = plan.program.op(id);
    JoinInfo info;
    if (!is_join(*op.kind, &info)) continue;
    ++joins;
    const Storage& whole = plan.program.value(op.results[0]).storage;
    for (size_t i = 0; i < op.operands.size(); ++i) {
      const Storage& part = plan.program.value(op.operands[i]).storage;
      CHECK(part.root == whole.root);
      CHECK(part.offset == whole.offset + info.offsets[i] * whole.strides[info.dim]);
      CHECK(part.strides == whole.strides);
    }
  }
  CHECK(joins == 1);
  CHECK(directional_error(program) < 1e-8);
}

TEST_CASE("absent parts of a join are zeros, also in memory that held something else") {
  const Program program = split_program(false);
  CHECK(directional_error(program) < 1e-8);
  Rig rig(program);
  rig.step();
  const std::vector<double> dw = rig.gradients().at("w");
  for (size_t i = 8 * 3; i < 10 * 3; ++i) CHECK(dw[i] == 0.0);
  CHECK(dw[0] != 0.0);
}

TEST_CASE("a part that somebody else reads, or whose producer writes densely, is copied") {
  Program program;
  Trace t(program, true);
  const Value x = t.input("x", DType::kF64, {4, 6}, {});
  const Value like = t.input("like", DType::kF64, {4, 12}, {});
  const Value shared = tiny::tanh(t, x), dense = matmul(t, x, param(t, "w", {6, 6}));
  t.output("y", concatenate(t, like, {shared, dense}, 1, {6, 6}));
  t.output("shared", scale(t, shared, 1.0));
  verify(program);
  Rig rig(program);
  rig.step();
  const Tensor y = rig.executor().output("y"), s = rig.executor().output("shared");
  const Storage& joined = rig.program().value(rig.program().outputs[0].value).storage;
  CHECK(rig.program().value(shared.id).storage.root != joined.root);
  CHECK(rig.program().value(dense.id).storage.root != joined.root);
  for (int64_t r = 0; r < 4; ++r) {
    for (int64_t c = 0; c < 6; ++c) {
      CHECK(at(y, {r, c}) == at(s, {r, c}));
      CHECK(std::isfinite(at(y, {r, c + 6})));
    }
  }
}
