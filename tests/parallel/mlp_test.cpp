// A two-layer network in tanh on several ranks equals one rank; a collective that is left out is refused.
#include "comm/collectives.h"
#include "parallel/parallel_context.h"
#include "program/elementwise.h"
#include "tests/catch.h"
#include "tests/comm/ranks.h"

using namespace megatron;
using namespace megatron::tiny;

namespace {

/// Collectives by the order of their appearance; number `without` is left out.
struct Borders {
  const ParallelContext& parallel;
  int without = -1, count = 0;
  bool here() { return count++ != without; }
  Value in(Trace& t, Value x) { return here() ? parallel.gather_in(t, x) : x; }
  Value out(Trace& t, Value x) { return here() ? parallel.reduce_out(t, x) : x; }
};

constexpr int64_t kSequence = 5, kSamples = 3, kWidth = 4, kHidden = 7;

Placement stream_of(const ParallelContext& parallel) {
  Placement p = parallel.tokens();
  if (parallel.sequence_parallel()) p[static_cast<size_t>(parallel.mesh().find("tp"))] = AxisPlacement::S(0);
  return p;
}

/// residual: y = x + mlp(x) per layer, with a gain of the norm's kind on the stream; otherwise y = mlp(x).
Program network(const Mesh& mesh, bool sequence_parallel, bool residual, int without = -1, int layers = 2) {
  const ParallelContext parallel(mesh, sequence_parallel);
  Borders borders{parallel, without};
  Program program;
  program.mesh = mesh;
  Trace t(program, true);
  Value x = t.input("x", DType::kF64, {kSequence, kSamples, kWidth}, stream_of(parallel), 1);
  x = matmul(t, x, param(t, "embedding", {kWidth, kWidth}));
  for (int layer = 0; layer < layers; ++layer) {
    const std::string name = "layers." + std::to_string(layer);
    Trace::Scope scope(t, name);
    Value h = tiny::tanh(t, matmul(t, x, param(t, name + ".mix", {kWidth, kWidth})));
    h = matmul(t, borders.in(t, h), param(t, name + ".fc1", {kHidden, kWidth}, parallel.tp_sharded(0)));
    h = matmul(t, tiny::tanh(t, h), param(t, name + ".fc2", {kWidth, kHidden}, parallel.tp_sharded(1)));
    h = borders.out(t, h);
    x = residual ? add(t, x, h) : tiny::tanh(t, h);
  }
  add_loss(t, sum(t, tiny::tanh(t, x)));
  t.output("y", x);
  differentiate(program);
  remove_dead_ops(program);
  return program;
}

struct Result {
  std::vector<double> loss, y;
  std::map<std::string, std::vector<double>> gradients;
};

Result run(const AxisSizes& sizes, bool sequence_parallel, bool residual, int without = -1, bool everything = false) {
  const Ranks world(sizes);
  PackOptions options;
  options.reuse = !everything;
  const auto rigs = world.step(
      [&](const Mesh& mesh) {
        Program program = network(mesh, sequence_parallel, residual, without);
        if (everything) {
          move_weight_gradients(program);
          recompute(program, [](const Program&, ValueId) { return true; });
        }
        return program;
      },
      options);
  Result result;
  result.loss = assemble_output(rigs, "loss0");
  result.y = assemble_output(rigs, "y");
  for (const ParameterInfo& p : rigs[0]->program().parameters) {
    const std::string& name = rigs[0]->program().value(p.value).name;
    result.gradients[name] = assemble_gradient(rigs, name);
  }
  return result;
}

double distance(const Result& a, const Result& b) {
  double worst = std::max(difference(a.loss, b.loss), difference(a.y, b.y));
  for (const auto& [name, g] : a.gradients) worst = std::max(worst, difference(g, b.gradients.at(name)));
  return worst;
}

}  // namespace

TEST_CASE("the network on any mesh equals one rank") {
  for (bool residual : {true, false}) {
    const Result one = run({}, false, residual);
    CHECK(directional_error(network({}, false, residual)) < 1e-8);
    struct Layout {
      AxisSizes sizes;
      bool sequence_parallel;
    };
    const std::vector<Layout> layouts = {{{{"tp", 2}}, false},
                                         {{{"tp", 3}}, false},
                                         {{{"tp", 2}}, true},
                                         {{{"tp", 4}}, true},
                                         {{{"dp", 2}}, false},
                                         {{{"cp", 2}}, false},
                                         {{{"tp", 2}, {"dp", 2}}, false},
                                         {{{"tp", 2}, {"dp", 2}}, true},
                                         {{{"tp", 2}, {"cp", 2}}, true},
                                         {{{"tp", 2}, {"cp", 2}, {"dp", 3}}, true}};
    for (const Layout& layout : layouts) {
      std::string name = layout.sequence_parallel ? "sp" : "";
      for (const auto& [axis, size] : layout.sizes) name += " " + axis + std::to_string(size);
      INFO(name << (residual ? " residual" : ""));
      CHECK(distance(one, run(layout.sizes, layout.sequence_parallel, residual)) < 1e-12);
      CHECK(distance(one, run(layout.sizes, layout.sequence_parallel, residual, -1, true)) < 1e-12);
    }
  }
}

TEST_CASE("every reduction or gather that is left out is refused when the program is built") {
  for (bool residual : {true, false}) {
    for (bool sequence_parallel : {true, false}) {
      for (const AxisSizes& sizes : {AxisSizes{{"tp", 2}}, AxisSizes{{"tp", 2}, {"dp", 2}}}) {
        for (int without = 0; without < 4; ++without) {
          INFO("residual " << residual << " sequence parallel " << sequence_parallel << " without " << without);
          const bool is_enter = without % 2 == 0 && !sequence_parallel;
          const std::string text =
              message_of([&] { network(meshes_of(sizes)[0], sequence_parallel, residual, without); });
          if (is_enter &&
              text.empty()) {  // all is linear in the partial gradient: nothing is wrong, only reduced later
            CHECK(distance(run({}, false, residual), run(sizes, false, residual, without)) < 1e-12);
            continue;
          }
          CHECK(contains(text, "tp"));
          if (is_enter) {
            CHECK(contains(text, "enter the parallel region once"));
          } else {
            CHECK(contains(text, "remedy:"));
            CHECK(contains(text, "layers." + std::to_string(without / 2)));
          }
        }
      }
    }
  }
}

TEST_CASE("a residual stream that is used beside the region needs its enter") {
  CHECK(contains(
      message_of([] {
        Program program;
        program.mesh = {{{"tp", 2, 0}}};
        Trace t(program, true);
        const ParallelContext parallel(program.mesh, false);
        const Value x = matmul(t, t.input("x", DType::kF64, {4, 2, 4}, parallel.tokens()), param(t, "w", {4, 4}));
        Value h = matmul(t, x, param(t, "fc1", {8, 4}, parallel.tp_sharded(0)));  // no gather_in
        h = parallel.reduce_out(t, matmul(t, tiny::tanh(t, h), param(t, "fc2", {4, 8}, parallel.tp_sharded(1))));
        add_loss(t, sum(t, add(t, x, h)));
        differentiate(program);
      }),
      "enter the parallel region once"));
}

TEST_CASE("the context leaves values alone where there is nothing to do") {
  Program program;
  Trace t(program);
  const ParallelContext one;
  const Value x = t.input("x", DType::kF64, {4, 2}, {});
  CHECK(one.gather_in(t, x) == x);
  CHECK(one.reduce_out(t, x) == x);
  CHECK(one.to_stream(t, x) == x);
  CHECK(one.replicated().empty());
  CHECK(!ParallelContext(Mesh{}, true).sequence_parallel());
  const ParallelContext all(Mesh{{{"tp", 2, 0}, {"cp", 2, 0}, {"dp", 2, 0}}}, true);
  CHECK(all.sequence_parallel());
  CHECK(to_string(all.tokens(), all.mesh()) == "cp:S(0) dp:S(1)");
  CHECK(to_string(all.samples(), all.mesh()) == "dp:S(0)");
  CHECK(to_string(all.tp_sharded(1), all.mesh()) == "tp:S(1)");
}

TEST_CASE("positions follow the residual stream under sequence parallelism") {
  const Ranks world({{"tp", 2}});
  const auto rigs = world.step([](const Mesh& mesh) {
    Program program;
    program.mesh = mesh;
    Trace t(program);
    const ParallelContext parallel(mesh, true);
    t.output("p", parallel.to_stream(t, t.input("positions", DType::kF64, {5}, parallel.replicated())));
    return program;
  });
  const auto p = assemble_output(rigs, "p");
  for (int64_t i = 0; i < 5; ++i) CHECK(p[static_cast<size_t>(i)] == number("positions", i));
}
