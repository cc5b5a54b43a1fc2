#include "program/elementwise.h"
#include "program/views.h"
#include "tests/catch.h"
#include "tests/program/memory_check.h"

using namespace megatron;
using namespace megatron::tiny;

namespace {

const Dims kShape{4, 3, 5};

/// A program with input x [4, 3, 5] whose body adds its losses.
template <typename Body>
Program build(Body&& body) {
  Program program;
  Trace t(program, true);
  body(t, t.input("x", DType::kF64, kShape, {}));
  differentiate(program);
  return program;
}

int count_ops(const Program& program, Phase phase, const std::string& name) {
  int n = 0;
  for (OpId id : program.list(phase)) n += program.op(id).kind->name() == name;
  return n;
}

Value weight(Trace& t, const std::string& name) {
  return param(t, name, {5, 5});
}

/// Gradients with and without reuse of memory, and against finite differences.
void check_gradients(const Program& program) {
  CHECK(directional_error(program) < 1e-8);
  Program live = program;
  remove_dead_ops(live);
  CHECK(directional_error(live) < 1e-8);
  PackOptions apart;
  apart.reuse = false;
  Rig a(live), b(live, apart);
  a.step();
  b.step();
  for (const auto& [name, gradient] : a.gradients()) CHECK(same_bits(gradient, b.gradients().at(name)));
  const Plan plan = pack(live);
  MemoryCheck memory(plan);
  memory.host_writes_inputs(0);
  for (int phase = 0; phase < kPhases; ++phase) memory.run(static_cast<Phase>(phase), 0);
  for (const std::string& problem : memory.problems()) UNSCOPED_INFO(problem);
  CHECK(memory.problems().empty());
}

}  // namespace

TEST_CASE("gradients of values used several times") {
  SECTION("chain") {
    check_gradients(build([](Trace& t, Value x) { add_loss(t, sum(t, tiny::tanh(t, matmul(t, x, weight(t, "w"))))); }));
  }
  SECTION("fan-out: the sum is made inside the last producer") {
    const Program p = build([](Trace& t, Value x) {
      const Value h = tiny::tanh(t, matmul(t, x, weight(t, "w")));
      const Value a = matmul(t, h, weight(t, "a")), b = matmul(t, h, weight(t, "b")), c = matmul(t, h, weight(t, "c"));
      add_loss(t, sum(t, mul(t, mul(t, a, b), tiny::tanh(t, c))));
    });
    CHECK(count_ops(p, Phase::kBackward, "add") == 0);
    check_gradients(p);
  }
  SECTION("one gradient belongs to two values, and one of them gets another") {
    // add() gives one gradient value to both of its operands; u and x1 must not see what the other one receives.
    const Program p = build([](Trace& t, Value x) {
      const Value x1 = matmul(t, x, weight(t, "w")), u = matmul(t, x, weight(t, "u"));
      const Value z = add(t, x1, u);
      const Value w2 = matmul(t, z, weight(t, "f"));
      add_loss(t, sum(t, mul(t, tiny::tanh(t, w2), tiny::tanh(t, x1))));
    });
    check_gradients(p);
  }
  SECTION("the passed-on gradient comes first") {
    check_gradients(build([](Trace& t, Value x) {
      const Value a = matmul(t, x, weight(t, "w")), b = matmul(t, x, weight(t, "u"));
      const Value late = tiny::tanh(t, a);
      const Value z = add(t, a, b);
      add_loss(t, sum(t, mul(t, matmul(t, z, weight(t, "f")), late)));
      add_loss(t, sum(t, matmul(t, b, weight(t, "g"))));
    }));
  }
  SECTION("residual: the gradient that is added to is also what the branch's product reads") {
    const Program p = build([](Trace& t, Value x) {
      Value h = matmul(t, x, weight(t, "w"));
      for (int layer = 0; layer < 3; ++layer) h = add(t, h, matmul(t, h, weight(t, "f" + std::to_string(layer))));
      add_loss(t, sum(t, tiny::tanh(t, h)));
    });
    check_gradients(p);
  }
  SECTION("a value added to itself, multiplied by itself") {
    check_gradients(build([](Trace& t, Value x) {
      const Value h = matmul(t, x, weight(t, "w"));
      add_loss(t, sum(t, mul(t, add(t, h, h), mul(t, h, h))));
    }));
  }
  SECTION("two gradients of one operation for one value") {
    check_gradients(build([](Trace& t, Value x) {
      const Value h = matmul(t, x, weight(t, "w"));
      add_loss(t, sum(t, mul_pair(t, h, h)));
    }));
    check_gradients(build([](Trace& t, Value x) {
      const Value h = matmul(t, x, weight(t, "w"));
      const Value q = mul_pair(t, h, h);
      add_loss(t, sum(t, mul(t, mul_pair(t, q, h), mul_pair(t, h, tiny::tanh(t, q)))));
    }));
  }
  SECTION("one new gradient belongs to two values, or is read again by the rule that made it") {
    for (bool triples : {false, true}) {
      check_gradients(build([&](Trace& t, Value x) {
        const Value a = matmul(t, x, weight(t, "a")), b = matmul(t, x, weight(t, "b"));
        const Value y = t.emit1(std::make_shared<HalfSum>(triples), {a, b});
        const Value z = t.emit1(std::make_shared<HalfSum>(triples), {y, y});
        add_loss(t, sum(t, mul(t, tiny::tanh(t, z), mul(t, tiny::tanh(t, a), tiny::tanh(t, b)))));
      }));
      check_gradients(build([&](Trace& t, Value x) {
        const Value h = matmul(t, x, weight(t, "w")), p = param(t, "p", kShape);
        add_loss(t, sum(t, tiny::tanh(t, t.emit1(std::make_shared<HalfSum>(triples), {p, h}))));
      }));
    }
  }
  SECTION("views: several reshapes of one value") {
    check_gradients(build([](Trace& t, Value x) {
      const Value h = matmul(t, x, weight(t, "w"));
      const Value a = reshape(t, h, {12, 5}), b = reshape(t, tiny::tanh(t, h), {12, 5});
      const auto parts = split(t, a, 1, {2, 3});
      add_loss(t, sum(t, mul(t, matmul(t, a, weight(t, "v")), b)));
      add_loss(t, sum(t, tiny::tanh(t, parts[1])));
    }));
  }
}

TEST_CASE("gradients of parameters") {
  SECTION("tied: one weight in two places, all accumulated into one state") {
    const Program p = build([](Trace& t, Value x) {
      const Value h = tiny::tanh(t, matmul(t, x, weight(t, "w")));
      add_loss(t, sum(t, mul(t, matmul(t, h, weight(t, "w")), h)));
    });
    CHECK(p.parameters.size() == 1);
    CHECK(count_ops(p, Phase::kBackward, "accumulate") == 0);
    check_gradients(p);
  }
  SECTION("through a view") {
    check_gradients(build([](Trace& t, Value x) {
      const Value w = param(t, "w", {5, 1, 5});
      add_loss(t, sum(t, tiny::tanh(t, matmul(t, x, reshape(t, w, {5, 5})))));
      const auto rows = split(t, w, 0, {2, 3});
      add_loss(t, sum(t, tiny::tanh(t, rows[1])));
    }));
  }
  SECTION("as an operand of an element-wise operation, where gradients are passed on as they are") {
    const Program p = build([](Trace& t, Value x) {
      const Value h = matmul(t, x, weight(t, "w"));
      const Value b = param(t, "b", kShape);
      add_loss(t, sum(t, mul(t, tiny::tanh(t, add(t, h, b)), h)));
    });
    check_gradients(p);
  }
  SECTION("twice in one operation") {
    check_gradients(build([](Trace& t, Value x) {
      const Value p = param(t, "p", kShape);
      add_loss(t, sum(t, mul(t, mul_pair(t, p, p), x)));
      add_loss(t, sum(t, mul(t, p, p)));
      add_loss(t, sum(t, add(t, p, p)));
    }));
  }
  SECTION("unused, or used by nothing that a loss depends on: no gradient, no work") {
    const Program p = build([](Trace& t, Value x) {
      weight(t, "unused");
      t.output("side", matmul(t, x, weight(t, "side")));
      add_loss(t, sum(t, matmul(t, x, weight(t, "w"))));
    });
    Rig rig(p);
    rig.step();
    CHECK(rig.gradients().size() == 1);
    CHECK(p.parameters[0].gradient == kNone);
    CHECK(p.parameters[1].gradient == kNone);
    CHECK(p.parameters[2].gradient != kNone);
    CHECK(count_ops(p, Phase::kBackward, "matmul_dgrad") == 0);
  }
  SECTION("two micro-batches add up") {
    const Program p =
        build([](Trace& t, Value x) { add_loss(t, sum(t, tiny::tanh(t, matmul(t, x, weight(t, "w"))))); });
    Rig rig(p);
    rig.step();
    const auto once = rig.gradients().at("w");
    rig.step();
    const auto twice = rig.gradients().at("w");
    for (size_t i = 0; i < once.size(); ++i) CHECK(twice[i] == Approx(2 * once[i]).epsilon(1e-14));
  }
}

TEST_CASE("several losses, each with its seed") {
  const auto body = [](Trace& t, Value x, bool first, bool second) {
    const Value h = tiny::tanh(t, matmul(t, x, weight(t, "w")));
    const Value a = sum(t, h), b = sum(t, mul(t, h, h));
    if (first) t.loss(a, t.input("seed0", DType::kF64, {}, {}));
    if (second) t.loss(b, t.input("seed1", DType::kF64, {}, {}));
  };
  std::vector<std::vector<double>> g;
  for (int which = 1; which <= 3; ++which) {
    Rig rig(build([&](Trace& t, Value x) { body(t, x, (which & 1) != 0, (which & 2) != 0); }));
    rig.step();
    g.push_back(rig.gradients().at("w"));
  }
  for (size_t i = 0; i < g[0].size(); ++i) CHECK(g[2][i] == Approx(g[0][i] + g[1][i]).margin(1e-13));

  SECTION("one value is loss twice") {
    check_gradients(build([](Trace& t, Value x) {
      const Value a = sum(t, tiny::tanh(t, matmul(t, x, weight(t, "w"))));
      add_loss(t, a);
      add_loss(t, a);
    }));
  }
  SECTION("a loss that makes its gradient in the forward") {
    check_gradients(build([](Trace& t, Value x) {
      const Value h = matmul(t, x, weight(t, "w"));
      const Value seed = t.input("seed0", DType::kF64, {}, {});
      const Value f = t.emit1(std::make_shared<FusedLoss>(), {h, seed});
      t.loss(f, seed);
      t.output("loss0", f);
      add_loss(t, sum(t, tiny::tanh(t, h)));
      add_loss(t, sum(t, matmul(t, h, weight(t, "v"))));
    }));
  }
}

TEST_CASE("an operation without a gradient is refused by name") {
  const std::string text = message_of([] {
    build([](Trace& t, Value x) {
      add_loss(t, sum(t, t.emit1(std::make_shared<Log>(), {matmul(t, x, weight(t, "w"))})));
    });
  });
  CHECK(contains(text, "operation 'log' has no gradient"));
}

TEST_CASE("gradients that are placed differently are refused, naming both") {
  Program program;
  program.mesh.axes = {{"tp", 2, 0}};
  Trace t(program, true);
  const Placement replicated{AxisPlacement::R()};
  const Value h =
      tiny::tanh(t, matmul(t, t.input("x", DType::kF64, kShape, replicated), param(t, "w", {5, 5}, replicated)));
  // one use is column-parallel without entering the region: its gradient is partial, the other use's is not
  const Value y = matmul(t, h, param(t, "column", {6, 5}, {AxisPlacement::S(0)}));
  add_loss(t, sum(t, y));
  add_loss(t, sum(t, h));
  const std::string text = message_of([&] { differentiate(program); });
  CHECK(contains(text, "differ in type"));
  CHECK(contains(text, "tp:P"));
  CHECK(contains(text, "enter the parallel region once"));
}
