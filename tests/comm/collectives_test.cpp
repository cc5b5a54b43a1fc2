#include "comm/collectives.h"

#include "tests/catch.h"
#include "tests/comm/ranks.h"

using namespace megatron;
using namespace megatron::tiny;

namespace {

constexpr auto R = AxisPlacement::R;
constexpr auto S = AxisPlacement::S;
constexpr auto P = AxisPlacement::P;

/// p [rows, 3] as a parameter of placement `in`, through a collective, times `c` placed as the result, summed. Gives y
/// and dp for every rank.
using Apply = std::function<Value(Trace&, Value)>;
Program one_collective(const Mesh& mesh, int64_t rows, const AxisPlacement& in, const AxisPlacement& out,
                       const Apply& apply) {
  Program program;
  program.mesh = mesh;
  Trace t(program, true);
  const Value p = t.parameter("p", DType::kF64, {rows, 3}, {in}, Init::constant(0));
  const Value y = apply(t, p);
  const Value c = t.input("c", DType::kF64, {rows, 3}, {out});
  t.output("y", y);
  add_loss(t, sum(t, mul(t, y, c)));
  differentiate(program);
  remove_dead_ops(program);
  return program;
}

std::vector<double> numbers(const std::string& name, int64_t n, double factor = 1) {
  std::vector<double> values;
  for (int64_t i = 0; i < n; ++i) values.push_back(factor * number(name, i));
  return values;
}

const double kSeed = number("seed0", 0);

struct Case {
  const char* name;
  AxisPlacement in, out;
  Apply apply;
  bool sums;            ///< the result is the sum over the ranks (which hold equal numbers in this test)
  const char* adjoint;  ///< collective of the backward, "" for none
};

std::vector<Case> cases() {
  return {
      {"all_reduce", P(), R(), [](Trace& t, Value x) { return all_reduce(t, x, "tp"); }, true, ""},
      {"reduce_scatter", P(), S(0), [](Trace& t, Value x) { return reduce_scatter(t, x, "tp"); }, true, "all_gather"},
      {"all_gather", S(0), R(), [](Trace& t, Value x) { return all_gather(t, x, "tp"); }, false, "slice"},
      {"slice", R(), S(0), [](Trace& t, Value x) { return slice(t, x, "tp"); }, false, "all_gather"},
      {"enter", R(), R(), [](Trace& t, Value x) { return enter(t, x, "tp"); }, false, ""}};
}

}  // namespace

TEST_CASE("collectives move global values, forward and backward, on any number of ranks and rows") {
  for (int ranks : {2, 3, 4}) {
    for (int64_t rows : {12, 7, 3, 2, 1}) {
      const Ranks world({{"tp", ranks}});
      for (const Case& c : cases()) {
        INFO(c.name << " on " << ranks << " ranks, " << rows << " rows");
        const auto rigs =
            world.step([&](const Mesh& mesh) { return one_collective(mesh, rows, c.in, c.out, c.apply); });
        const double times = c.sums ? ranks : 1;  // every rank's part of a partial value is the same here
        CHECK(difference(assemble_output(rigs, "y"), numbers("p", rows * 3, times)) < 1e-14);
        for (const auto& rig : rigs) {  // every rank, not only the first replica
          const Program& program = rig->program();
          const ValueId id = program.outputs[0].value;
          const LocalBox box = local_box(program.value(id).shape, program.value(id).placement, program.mesh);
          const Tensor y = rig->executor().output("y");
          REQUIRE(y.shape == box.extent);
          for_each_index(box.extent, [&](const Dims& i) {
            CHECK(at(y, i) == Approx(times * number("p", flat(i, box.origin, {rows, 3}))).margin(1e-14));
          });
          // dp: seed * c, where this rank holds it
          const ValueInfo& g = program.value(program.parameters[0].gradient);
          const LocalBox gradient_box = local_box(g.shape, g.placement, program.mesh);
          const Tensor dp = rig->store().find("gradient/p");
          for_each_index(gradient_box.extent, [&](const Dims& i) {
            CHECK(at(dp, i) == Approx(kSeed * number("c", flat(i, gradient_box.origin, {rows, 3}))).margin(1e-14));
          });
        }
        std::string backward;
        for (OpId id : rigs[0]->program().list(Phase::kBackward)) {
          const std::string name = rigs[0]->program().op(id).kind->name();
          if (!rigs[0]->program().op(id).kind->comm_axis().empty()) backward += name;
        }
        CHECK(backward == c.adjoint);
      }
    }
  }
}

TEST_CASE("a partial gradient is summed by the adjoint of enter, all_gather and all_reduce") {
  const int64_t rows = 5;
  const auto build = [&](const Mesh& mesh, const AxisPlacement& in, const Apply& apply) {
    Program program;
    program.mesh = mesh;
    Trace t(program, true);
    const Placement shard = mesh.axes.empty() ? Placement{} : Placement{S(0)};
    const Value p =
        t.parameter("p", DType::kF64, {rows, 4}, mesh.axes.empty() ? Placement{} : Placement{in}, Init::constant(0));
    const Value y = mesh.axes.empty() ? p : apply(t, p);
    add_loss(t, sum(t, tiny::tanh(t, matmul(t, y, param(t, "w", {7, 4}, shard)))));  // column-parallel: dy is partial
    differentiate(program);
    return program;
  };
  const auto expected = [&] {
    Rig rig(build({}, R(), {}));
    rig.step();
    return rig.gradients();
  }();
  for (int ranks : {2, 3}) {
    const Ranks world({{"tp", ranks}});
    for (const Case& c : cases()) {
      if (std::string(c.name) == "slice" || std::string(c.name) == "reduce_scatter") continue;
      INFO(c.name);
      const auto rigs = world.step([&](const Mesh& mesh) { return build(mesh, c.in, c.apply); });
      if (c.sums) continue;  // p counts `ranks` times: the linear map differs; its adjoint is checked above
      CHECK(difference(assemble_gradient(rigs, "p"), expected.at("p")) < 1e-13);
      CHECK(difference(assemble_gradient(rigs, "w"), expected.at("w")) < 1e-13);
      for (OpId id : rigs[0]->program().list(Phase::kBackward))
        CHECK(rigs[0]->program().op(id).kind->name() != "slice");
    }
  }
}

TEST_CASE("collectives refuse operands of another placement, and blocks that do not nest") {
  Program program;
  program.mesh.axes = {{"tp", 2, 0}, {"cp", 2, 0}};
  Trace t(program);
  int n = 0;
  const auto value = [&](const Placement& placement, const Dims& shape = {8, 4}) {
    return t.input("x" + std::to_string(n++), DType::kF64, shape, placement);
  };
  const std::string text = message_of([&] { all_reduce(t, value({R(), P()}), "tp"); });
  CHECK(contains(text, "all_reduce refuses its operands: the operand is cp:P, which is not partial over tp"));
  CHECK(contains(message_of([&] { reduce_scatter(t, value({S(0), R()}), "tp"); }), "not partial over tp"));
  CHECK(contains(message_of([&] { all_gather(t, value({S(1), R()}), "tp"); }), "not sharded on dimension 0 over tp"));
  CHECK(contains(message_of([&] { all_gather(t, value({R(), R()}), "tp"); }), "not sharded"));
  CHECK(contains(message_of([&] { slice(t, value({P(), R()}), "tp"); }), "not replicated"));
  CHECK(contains(message_of([&] { enter(t, value({S(0), R()}), "tp"); }), "not replicated"));
  CHECK(contains(message_of([&] { all_reduce(t, value({P(), R()}), "dp"); }), "the mesh has no axis 'dp'"));
  CHECK(contains(message_of([&] { slice(t, value({R(), R()}, {}), "tp"); }), "a scalar has no dimension"));
  // tp blocks lie inside cp blocks: tp may come and go, cp may not while tp is there
  CHECK(t.info(all_gather(t, value({S(0), S(0)}), "tp")).placement == Placement{R(), S(0)});
  CHECK(t.info(slice(t, value({R(), S(0)}), "tp")).placement == Placement{S(0), S(0)});
  CHECK(contains(message_of([&] { all_gather(t, value({S(0), S(0)}), "cp"); }), "also sharded over tp"));
  CHECK(contains(message_of([&] { slice(t, value({S(0), R()}), "cp"); }), "gather over tp first"));
  CHECK(contains(message_of([&] { reduce_scatter(t, value({S(0), P()}), "cp"); }), "also sharded over tp"));
}

TEST_CASE("gathering the inner axis gives the outer axis' blocks, uneven ones too") {
  const Ranks world({{"tp", 2}, {"cp", 3}});
  for (int64_t rows : {13, 12, 4}) {
    const auto rigs = world.step([&](const Mesh& mesh) {
      Program program;
      program.mesh = mesh;
      Trace t(program);
      const Value x = t.input("x", DType::kF64, {rows, 2}, {S(0), S(0)});
      t.output("inner", all_gather(t, x, "tp"));
      t.output("whole", all_gather(t, all_gather(t, x, "tp"), "cp"));
      return program;
    });
    CHECK(difference(assemble_output(rigs, "inner"), numbers("x", rows * 2)) == 0);
    CHECK(difference(to_vector(rigs[5]->executor().output("whole")), numbers("x", rows * 2)) == 0);
  }
}

TEST_CASE("thread communicators: sums in rank order are equal on all ranks, one rank never waits") {
  const auto one = make_thread_comms(1);
  double alone = 3;
  one[0]->all_reduce(make_tensor(&alone, DType::kF64, {}));
  one[0]->barrier();
  CHECK(alone == 3);
  const int n = 4;
  const auto comms = make_thread_comms(n);
  std::vector<std::vector<float>> values(n, std::vector<float>(1000));
  std::vector<float> expected(1000);
  for (size_t i = 0; i < 1000; ++i) {
    float sum = 0;
    for (size_t r = 0; r < n; ++r)
      sum += values[r][i] = static_cast<float>(number("v" + std::to_string(r), static_cast<int64_t>(i)));
    expected[i] = sum;
  }
  std::vector<std::thread> threads;
  for (size_t r = 0; r < n; ++r) {
    threads.emplace_back([&, r] {
      for (int repeat = 0; repeat < 20; ++repeat) {
        std::vector<float> mine = values[r];
        comms[r]->all_reduce(make_tensor(mine.data(), DType::kF32, {1000}));
        if (repeat == 19) values[r] = mine;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& v : values) CHECK(v == expected);
}
