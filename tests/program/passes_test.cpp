#include <algorithm>
#include <random>
#include <set>

#include "base/strings.h"
#include "program/elementwise.h"
#include "program/views.h"
#include "tests/catch.h"
#include "tests/program/random_program.h"

using namespace megatron;
using namespace megatron::tiny;

namespace {

std::map<std::string, std::vector<double>> gradients_of(const Program& program) {
  Rig rig(program);
  rig.step();
  return rig.gradients();
}

int recomputed(const Program& program) {
  int n = 0;
  for (Phase phase : {Phase::kBackward, Phase::kWeightGradient}) {
    for (OpId id : program.list(phase)) n += program.op(id).recompute_of != kNone;
  }
  return n;
}

void check_same(const std::map<std::string, std::vector<double>>& a,
                const std::map<std::string, std::vector<double>>& b) {
  REQUIRE(a.size() == b.size());
  for (const auto& [name, gradient] : a) REQUIRE(same_bits(gradient, b.at(name)));
}

int64_t held_over(const Program& program) {
  PackOptions o;
  o.slot_sets = 2;
  return pack(program, o).slot_bytes;
}

}  // namespace

TEST_CASE("recompute: any subset of dropped values gives the same bits") {
  int dropped_in_all = 0;
  for (unsigned seed = 0; seed < 60; ++seed) {
    const Program program = random_program(seed);
    const auto expected = gradients_of(program);
    for (int chance : {2, 4, 10}) {
      std::mt19937 random(seed * 31 + static_cast<unsigned>(chance));
      Program dropped = program;
      const int count =
          recompute(dropped, [&](const Program&, ValueId) { return static_cast<int>(random() % 10) < chance; });
      if (seed % 2 == 0) move_weight_gradients(dropped);
      remove_dead_ops(dropped);
      dropped_in_all += count;
      INFO("seed " << seed << " chance " << chance << "\n" << print_program(dropped));
      check_same(expected, gradients_of(dropped));
      if (count == 0) CHECK(recomputed(dropped) == 0);
    }
  }
  CHECK(dropped_in_all > 500);
}

TEST_CASE("recompute after the weight gradients have moved serves phase W too") {
  for (unsigned seed = 0; seed < 20; ++seed) {
    Program program = random_program(seed);
    const auto expected = gradients_of(program);
    move_weight_gradients(program);
    recompute(program, [](const Program&, ValueId) { return true; });
    check_same(expected, gradients_of(program));
  }
}

TEST_CASE("recompute holds less memory between the phases") {
  Program program;
  Trace t(program, true);
  Value h = t.input("x", DType::kF64, {16, 4}, {});
  std::set<ValueId> inner;
  for (int layer = 0; layer < 6; ++layer) {
    const Value a = matmul(t, h, param(t, "a" + std::to_string(layer), {4, 4}));
    const Value b = tiny::tanh(t, a), c = matmul(t, b, param(t, "b" + std::to_string(layer), {4, 4}));
    inner.insert({a.id, b.id, c.id});
    h = tiny::tanh(t, c);
  }
  add_loss(t, sum(t, h));
  differentiate(program);
  Program dropped = program;
  CHECK(recompute(dropped, [&](const Program&, ValueId v) { return inner.count(v) > 0; }) == 18);
  remove_dead_ops(dropped);
  CHECK(held_over(dropped) < held_over(program) * 6 / 10);
  CHECK(recomputed(dropped) == 12);  // a and b of each layer; nobody needs c again
  check_same(gradients_of(program), gradients_of(dropped));
}

TEST_CASE("recompute never runs again what changes state, or what reads state that changes") {
  Program program;
  Trace t(program, true);
  const Value x = t.input("x", DType::kF64, {3, 4}, {});
  const Value counter = t.state("counter", DType::kF64, {}, {});
  const Value h = matmul(t, x, param(t, "w", {4, 4}));
  const Value before = t.emit1(std::make_shared<UseState>(false), {h, counter});
  const Value counted = t.emit1(std::make_shared<UseState>(true), {before, counter});
  const Value after = t.emit1(std::make_shared<UseState>(false), {counted, counter});
  add_loss(t, sum(t, mul(t, tiny::tanh(t, before), mul(t, tiny::tanh(t, counted), tiny::tanh(t, after)))));
  differentiate(program);
  const auto expected = gradients_of(program);
  Program dropped = program;
  CHECK(recompute(dropped, [](const Program&, ValueId) { return true; }) > 3);
  CHECK(recomputed(dropped) > 3);
  for (OpId id : dropped.list(Phase::kBackward)) CHECK(dropped.op(id).kind->name() != "count");
  Rig rig(dropped);
  rig.step();
  CHECK(*rig.store().find("counter").as<double>() == 1.0);
  check_same(expected, rig.gradients());
}

TEST_CASE("phase W holds all that only makes parameter gradients, and what depends on it") {
  for (unsigned seed = 0; seed < 60; ++seed) {
    Program program = random_program(seed);
    const auto expected = gradients_of(program);
    const size_t all = program.list(Phase::kBackward).size();
    move_weight_gradients(program);
    CHECK(program.list(Phase::kBackward).size() + program.list(Phase::kWeightGradient).size() == all);
    for (OpId id : program.list(Phase::kBackward)) CHECK(!program.op(id).kind->is_weight_gradient());
    check_same(expected, gradients_of(program));
  }
  SECTION("a weight gradient that passes through a view goes with its reader") {
    Program program;
    Trace t(program, true);
    const Value w = param(t, "w", {2, 2, 4});
    add_loss(t, sum(t, tiny::tanh(t, matmul(t, t.input("x", DType::kF64, {3, 4}, {}), reshape(t, w, {4, 4})))));
    differentiate(program);
    const auto expected = gradients_of(program);
    move_weight_gradients(program);
    CHECK(program.list(Phase::kWeightGradient).size() == 3);  // product, reshape, accumulate
    check_same(expected, gradients_of(program));
  }
}

TEST_CASE("dead operations go, what changes state stays") {
  Program program;
  Trace t(program, true);
  const Value x = t.input("x", DType::kF64, {3, 4}, {});
  const Value counter = t.state("counter", DType::kF64, {}, {});
  t.emit1(std::make_shared<UseState>(true), {x, counter});  // result unread, state changed
  const Value dead = tiny::tanh(t, scale(t, x, 2.0));
  split(t, dead, 1, {2, 2});
  const Value h = matmul(t, x, param(t, "w", {4, 4}));
  const Value parts = split(t, h, 1, {2, 2})[1];
  add_loss(t, sum(t, tiny::tanh(t, parts)));
  differentiate(program);
  const auto expected = gradients_of(program);
  const size_t before = program.list(Phase::kForward).size();
  remove_dead_ops(program);
  CHECK(program.list(Phase::kForward).size() == before - 3);
  check_same(expected, gradients_of(program));
  Rig rig(program);
  rig.step();
  CHECK(*rig.store().find("counter").as<double>() == 1.0);
  SECTION("without outputs and states nothing is left") {
    Program idle;
    Trace u(idle);
    tiny::tanh(u, u.input("x", DType::kF64, {4}, {}));
    remove_dead_ops(idle);
    CHECK(idle.list(Phase::kForward).empty());
  }
  SECTION("random programs") {
    for (unsigned seed = 0; seed < 40; ++seed) {
      Program random = random_program(seed);
      const auto gradients = gradients_of(random);
      remove_dead_ops(random);
      check_same(gradients, gradients_of(random));
    }
  }
}

TEST_CASE("a program prints its phases, scopes, types, sums and recomputation") {
  Program program;
  program.name = "step";
  Trace t(program, true);
  {
    Trace::Scope scope(t, "layer");
    const Value h = tiny::tanh(t, matmul(t, t.input("x", DType::kF64, {3, 4}, {}), param(t, "w", {4, 4})));
    add_loss(t, sum(t, h));
  }
  differentiate(program);
  recompute(program, [](const Program&, ValueId) { return true; });
  const std::string text = print_program(program);
  for (const char* part : {"program step", "parameter %", " w: fp64[4, 4]", "input %", "state %", "F:\n", "B:\n",
                           "# layer", " = matmul(", "+= onto", "# recompute", "output loss0"}) {
    INFO(part);
    CHECK(contains(text, part));
  }
}

namespace {

/// A product between pieces that another stream makes and pieces that it takes, with its backward.
Program product_between_pieces(const std::vector<int64_t>& rows, bool used_twice = false) {
  Program program;
  Trace t(program, true);
  const Value x = matmul(t, t.input("x", DType::kF64, {6, 4}, {}), param(t, "first", {4, 4}));
  std::vector<Value> made, taken;
  for (Value piece : split(t, x, 0, rows)) made.push_back(tiny::tanh(t, piece));
  const Value whole = join(t, made, 0), y = matmul(t, whole, param(t, "w", {5, 4}));
  for (Value piece : split(t, y, 0, rows)) taken.push_back(tiny::tanh(t, piece));
  if (used_twice) add_loss(t, sum(t, matmul(t, whole, param(t, "v", {3, 4}))));
  add_loss(t, sum(t, join(t, taken, 0)));
  differentiate(program);
  remove_dead_ops(program);
  for (Op& op : program.ops) {
    if (starts_with(op.kind->name(), "tanh")) op.stream = Stream::kComm;
  }
  return program;
}

}  // namespace

TEST_CASE("split_rows: products between pieces are cut like them, with the same bits") {
  const auto products = [](const Program& p, OpId id) {
    return p.op(id).kind->name() == "matmul" || p.op(id).kind->name() == "matmul_dgrad";
  };
  for (const std::vector<int64_t>& rows : {std::vector<int64_t>{2, 2, 2}, std::vector<int64_t>{1, 5, 0}}) {
    Program program = product_between_pieces(rows);
    const auto expected = gradients_of(program);
    const auto uncut = program.list(Phase::kBackward).size();
    // `first` is taken in pieces, `w` on both sides; of the data gradients that of `w`.
    CHECK(split_rows(program, products) == 3);
    CHECK(program.list(Phase::kBackward).size() > uncut + 2);
    check_same(expected, gradients_of(program));
    PackOptions apart;
    apart.reuse = false;
    Rig rig(program, apart);
    rig.step();
    check_same(expected, rig.gradients());
    CHECK(split_rows(program, [](const Program&, OpId) { return false; }) == 0);
    const Plan plan = pack(program);
    for (Phase phase : {Phase::kForward, Phase::kBackward}) {
      for (OpId id : program.list(phase)) {
        JoinInfo info;
        if (!is_join(*program.op(id).kind, &info)) continue;
        if (products(program, program.value(program.op(id).operands[0]).producer)) CHECK(joins_in_place(plan, id));
      }
    }
  }
}

TEST_CASE("split_rows: an operation that adds to something, or has no pieces beside it, stays whole") {
  const auto all = [](const Program&, OpId) { return true; };
  Program program;
  Trace t(program, true);
  const Value x = t.input("x", DType::kF64, {6, 4}, {});
  t.output("y", join(t, split(t, matmul(t, x, param(t, "w", {5, 4})), 0, {3, 3}), 0));
  CHECK(split_rows(program, all) == 0);  // nobody communicates
  Program adding = product_between_pieces({3, 3}, true);
  const auto expected = gradients_of(adding);
  CHECK(split_rows(adding, [](const Program& p, OpId id) { return p.op(id).kind->name() == "matmul_dgrad"; }) == 0);
  CHECK(split_rows(adding, [](const Program& p, OpId id) { return p.op(id).kind->name() == "matmul"; }) == 3);
  check_same(expected, gradients_of(adding));
}
