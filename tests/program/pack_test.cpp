#include "tests/catch.h"
#include "tests/program/memory_check.h"
#include "tests/program/random_program.h"

using namespace megatron;
using namespace megatron::tiny;

namespace {

PackOptions options(int slot_sets, bool reuse) {
  PackOptions o;
  o.slot_sets = slot_sets;
  o.reuse = reuse;
  return o;
}

/// Two micro-batches: their outputs and the gradients after both.
std::vector<std::vector<double>> two_batches(const Program& program, int slot_sets, bool reuse) {
  Rig rig(program, options(slot_sets, reuse));
  Executor& e = rig.executor();
  std::vector<std::vector<double>> all(2 * program.outputs.size());
  if (slot_sets == 1) {  // the second batch's inputs come from set 1 of a plan with two sets
    Rig donor(program, options(2, false));
    for (int batch = 0; batch < 2; ++batch) {
      for (const auto& [name, id] : program.by_name) {
        if (!e.has_input(name)) continue;
        const Tensor from = donor.executor().input(name, batch);
        std::copy_n(from.as<double>(), from.numel(), e.input(name).as<double>());
      }
      rig.step();
      for (size_t i = 0; i < program.outputs.size(); ++i)
        all[2 * i + static_cast<size_t>(batch)] = to_vector(e.output(program.outputs[i].name));
    }
  } else {
    for (Phase phase : {Phase::kForward, Phase::kBackward, Phase::kWeightGradient}) {
      for (int set = 0; set < 2; ++set) e.run(phase, set);
    }
    for (size_t i = 0; i < program.outputs.size(); ++i) {
      for (int set = 0; set < 2; ++set)
        all[2 * i + static_cast<size_t>(set)] = to_vector(e.output(program.outputs[i].name, set));
    }
  }
  for (const auto& [name, gradient] : rig.gradients()) all.push_back(gradient);
  return all;
}

std::vector<std::string> watch(const Program& program, int slot_sets, bool reuse) {
  const Plan plan = pack(program, options(slot_sets, reuse));
  MemoryCheck check(plan);
  for (int set = 0; set < slot_sets; ++set) check.host_writes_inputs(set);
  for (int phase = 0; phase < kPhases; ++phase) {
    for (int set = 0; set < slot_sets; ++set) check.run(static_cast<Phase>(phase), set);
  }
  for (int set = 0; set < slot_sets; ++set) check.host_reads_outputs(set);
  return check.problems();
}

Program variant(unsigned seed) {
  Program program = random_program(seed, 10 + static_cast<int>(seed % 3) * 6);
  if (seed % 2 == 0) move_weight_gradients(program);
  if (seed % 5 != 0) remove_dead_ops(program);
  if (seed % 3 == 0)
    recompute(program, [&](const Program&, ValueId v) { return (v * 7 + static_cast<int>(seed)) % 3 == 0; });
  return program;
}

}  // namespace

TEST_CASE("random programs: every read finds the value that it means, with any number of slot sets") {
  for (unsigned seed = 0; seed < 120; ++seed) {
    const Program program = variant(seed);
    for (int slot_sets : {1, 2}) {
      for (bool reuse : {true, false}) {
        const auto problems = watch(program, slot_sets, reuse);
        INFO("seed " << seed << ", slot sets " << slot_sets << ", reuse " << reuse << "\n" << print_program(program));
        for (const std::string& problem : problems) UNSCOPED_INFO(problem);
        REQUIRE(problems.empty());
      }
    }
  }
}

TEST_CASE("random programs: the same bits with and without reuse of memory, interleaved or not") {
  for (unsigned seed = 0; seed < 60; ++seed) {
    const Program program = variant(seed);
    const auto plain = two_batches(program, 1, false);
    for (int slot_sets : {1, 2}) {
      for (bool reuse : {true, false}) {
        const auto other = two_batches(program, slot_sets, reuse);
        INFO("seed " << seed << ", slot sets " << slot_sets << ", reuse " << reuse);
        REQUIRE(plain.size() == other.size());
        for (size_t i = 0; i < plain.size(); ++i) REQUIRE(same_bits(plain[i], other[i]));
      }
    }
  }
}

TEST_CASE("random programs: gradients equal finite differences") {
  for (unsigned seed = 0; seed < 60; ++seed) {
    INFO("seed " << seed);
    REQUIRE(directional_error(variant(seed)) < 1e-7);
  }
}

TEST_CASE("reuse saves memory, and slot sets hold only what crosses") {
  int64_t with = 0, without = 0;
  for (unsigned seed = 0; seed < 40; ++seed) {
    const Program program = variant(seed);
    const Plan dense = pack(program, options(1, true)), apart = pack(program, options(1, false));
    CHECK(dense.arena_bytes() <= apart.arena_bytes());
    with += dense.transient_bytes;
    without += apart.transient_bytes;
    const Plan two = pack(program, options(2, true));
    CHECK(two.slot_bytes <= apart.transient_bytes);
    CHECK(two.arena_bytes() == 2 * (two.slot_bytes + two.input_bytes) + two.transient_bytes);
    for (size_t i = 0; i < two.slots.size(); ++i) {
      CHECK(two.slots[i].offset % Device::kAlignment == 0);
      if (dense.program.value(static_cast<ValueId>(i)).storage.root == static_cast<ValueId>(i)) {
        CHECK((dense.slots[i].region == Region::kSlot) == false);
      }
    }
  }
  CHECK(with < without * 3 / 4);
}

TEST_CASE("a chain of in-place operations lives in one slot") {
  Program program;
  Trace t(program);
  Value x = scale(t, t.input("x", DType::kF64, {64}, {}), 2.0);
  for (int i = 0; i < 5; ++i) x = tiny::tanh(t, x);
  t.output("y", x);
  CHECK(pack(program).transient_bytes == 512);
  CHECK(pack(program, options(1, false)).transient_bytes == 6 * 512);
}

TEST_CASE("memory is not taken over where it is still needed") {
  const auto run = [](const Program& program) {
    const auto plain = two_batches(program, 1, false);
    CHECK(two_batches(program, 1, true) == plain);
    CHECK(watch(program, 1, true).empty());
    CHECK(watch(program, 2, true).empty());
    return plain;
  };
  SECTION("an operand that is read later, or is an output, or the host's") {
    Program program;
    Trace t(program);
    const Value x = t.input("x", DType::kF64, {8}, {});
    const Value a = tiny::tanh(t, x), b = tiny::tanh(t, a), c = tiny::tanh(t, b);
    t.output("b", b);
    t.output("d", mul(t, c, a));
    const auto all = run(program);
    CHECK(all[2][0] == std::tanh(all[0][0]) * std::tanh(number("x", 0)));
  }
  SECTION("a sum onto memory that the kernel reads") {
    Program program;
    Trace t(program);
    const Value w = param(t, "w", {8, 8});
    const Value x = tiny::tanh(t, t.input("x", DType::kF64, {2, 8}, {}));
    const Value y = t.emit1(std::make_shared<Matmul>(Matmul::Part::kData), {x, w});
    t.accumulate_into(y, x);  // y = x + x W
    t.output("y", y);
    const auto all = run(program);
    double expected = std::tanh(number("x", 0));
    for (int n = 0; n < 8; ++n) expected += std::tanh(number("x", n)) * number("w", n * 8);
    CHECK(all[0][0] == Approx(expected));
  }
  SECTION("two sums of one operation onto one value") {
    Program program;
    Trace t(program);
    const Value x = tiny::tanh(t, t.input("x", DType::kF64, {8}, {})), y = scale(t, x, 3.0), z = scale(t, x, 5.0);
    const Value g = tiny::tanh(t, y);
    const auto pair = t.emit(std::make_shared<MulPair>(true), {g, y, z});
    const Value base = t.input("base", DType::kF64, {8}, {});
    const Value start = scale(t, base, 1.0);
    const auto both = t.emit(std::make_shared<MulPair>(true), {g, y, z});
    t.accumulate_into(both[0], start);
    t.accumulate_into(both[1], start);
    t.output("p", pair[0]);
    t.output("a", both[0]);
    t.output("b", both[1]);
    const auto all = run(program);
    CHECK(all[2][0] == Approx(number("base", 0) + all[0][0]));
    const double tx = std::tanh(number("x", 0));
    CHECK(all[4][0] == Approx(number("base", 0) + std::tanh(3 * tx) * 3 * tx));
  }
  SECTION("two sums of one operation onto one value, of which one is read") {
    for (size_t which : {0, 1}) {
      Program program;
      Trace t(program);
      const Value x = t.input("x", DType::kF64, {8}, {}), y = scale(t, x, 3.0), z = scale(t, x, 5.0),
                  start = scale(t, x, 2.0);
      const auto both = t.emit(std::make_shared<MulPair>(true), {x, y, z});
      t.accumulate_into(both[0], start);
      t.accumulate_into(both[1], start);
      t.output("a", both[which]);
      const double v = number("x", 0);
      CHECK(run(program)[0][0] == Approx(2 * v + v * (which == 0 ? 5 : 3) * v));
    }
  }
  SECTION("a sum onto a value that two others continue") {
    Program program;
    Trace t(program);
    const Value x = t.input("x", DType::kF64, {8}, {});
    const Value base = tiny::tanh(t, x), a = scale(t, x, 2.0), b = scale(t, x, 4.0);
    t.accumulate_into(a, base);
    t.accumulate_into(b, base);
    t.output("a", a);
    t.output("b", b);
    const auto all = run(program);
    CHECK(all[0][0] == Approx(std::tanh(number("x", 0)) + 2 * number("x", 0)));
    CHECK(all[2][0] == Approx(std::tanh(number("x", 0)) + 4 * number("x", 0)));
  }
}

TEST_CASE("results that nobody reads take no memory and reach kernels as null") {
  Program program;
  Trace t(program);
  const Value x = t.input("x", DType::kF64, {64}, {});
  const auto pair = t.emit(std::make_shared<MulPair>(true), {x, x, x});
  t.output("y", pair[1]);
  CHECK(pack(program).transient_bytes == 512);
  Rig rig(program);
  bool seen = false;
  const auto look = [&](Phase, const Executor::BoundOp& bound) {
    seen = true;
    CHECK(!bound.results[0]);
    CHECK(bound.results[1]);
  };
  rig.executor().set_observer({nullptr, look});
  rig.step();
  CHECK(seen);
}

TEST_CASE("costs count local shapes per phase") {
  Program program;
  program.mesh.axes = {{"tp", 2, 0}};
  Trace t(program);
  const Value x = t.input("x", DType::kF64, {8, 4}, {AxisPlacement::S(0)});
  t.output("y", tiny::tanh(t, x));
  const Cost cost = pack(program).cost(Phase::kForward);
  CHECK(cost.bytes == 2 * 4 * 4 * 8);
  CHECK(pack(program).cost(Phase::kBackward).bytes == 0);
}
