// ring_shift and all_to_all alone: values, and what they refuse.
#include "comm/context_collectives.h"

#include "tests/catch.h"
#include "tests/comm/ranks.h"

using namespace megatron;
using namespace megatron::tiny;

namespace {

constexpr auto R = AxisPlacement::R;
constexpr auto S = AxisPlacement::S;

}  // namespace

TEST_CASE("ring_shift gives every rank the part of another") {
  for (const int ranks : {2, 3, 5}) {
    const Ranks world({{"cp", ranks}});
    for (const int steps : {1, 2, -1}) {
      INFO(ranks << " ranks, by " << steps);
      const auto rigs = world.step([&](const Mesh& mesh) {
        Program program;
        program.mesh = mesh;
        Trace t(program);
        const Value x = t.input("x", DType::kF64, {2 * ranks, 3}, {S(0)});
        const std::vector<Value> y = ring_shift(t, {x, x}, "cp", steps);
        t.output("y", y[0]);
        t.output("again", y[1]);
        return program;
      });
      for (int r = 0; r < ranks; ++r) {
        const int from = ((r - steps) % ranks + ranks) % ranks;
        std::vector<double> expected;
        for (int64_t i = 0; i < 6; ++i) expected.push_back(number("x", from * 6 + i));
        CHECK(to_vector(rigs[static_cast<size_t>(r)]->executor().output("y")) == expected);
        CHECK(to_vector(rigs[static_cast<size_t>(r)]->executor().output("again")) == expected);
      }
    }
  }
}

TEST_CASE("all_to_all moves the cut from one dimension to another, and back") {
  for (const int ranks : {2, 3}) {
    const Ranks world({{"cp", ranks}});
    const int64_t rows = 2 * ranks, heads = 2 * ranks;
    std::vector<double> expected;
    for (int64_t i = 0; i < rows * 2 * heads * 3; ++i) expected.push_back(number("x", i));
    const auto rigs = world.step([&](const Mesh& mesh) {
      Program program;
      program.mesh = mesh;
      Trace t(program);
      const Value x = t.input("x", DType::kF64, {rows, 2, heads, 3}, {S(0)});
      const Value y = heads_for_sequence(t, x, "cp", 2);
      CHECK(t.info(y).placement == Placement{S(2)});
      t.output("y", y);
      t.output("back", sequence_for_heads(t, y, "cp", 2));
      return program;
    });
    CHECK(difference(assemble_output(rigs, "y"), expected) == 0);
    CHECK(difference(assemble_output(rigs, "back"), expected) == 0);
  }
}

TEST_CASE("context collectives refuse other placements and blocks that differ") {
  Program program;
  program.mesh.axes = {{"tp", 2, 0}, {"cp", 2, 0}};
  Trace t(program);
  int n = 0;
  const auto value = [&](const Placement& placement, const Dims& shape = {8, 1, 4}) {
    return t.input("x" + std::to_string(n++), DType::kF64, shape, placement);
  };
  const auto shift = [&](Value x) { return message_of([&] { ring_shift(t, {x}, "cp", 1); }); };
  const auto scatter = [&](Value x) { return message_of([&] { heads_for_sequence(t, x, "cp", 2); }); };
  CHECK(contains(shift(value({R(), R()})), "not sharded on dimension 0 over cp"));
  CHECK(contains(shift(value({R(), S(0)}, {7, 1, 4})), "is not 2 equal blocks"));
  CHECK(contains(scatter(value({R(), S(2)})), "not sharded on dimension 0 over cp"));
  CHECK(contains(scatter(value({R(), S(0)}, {8, 1, 3})), "dimension 2 of [8, 1, 3] is not 2 equal blocks"));
  CHECK(contains(scatter(value({S(2), S(0)}, {8, 1, 6})), "is not 4 equal blocks"));
  CHECK(contains(scatter(value({S(0), S(0)})), "gather over tp first"));
  CHECK(contains(message_of([&] { ring_shift(t, {value({R(), S(0)})}, "dp", 1); }), "the mesh has no axis 'dp'"));
}
