// Streams and the events between them: any order of work that respects both must give the bits of the list's order.
#include <algorithm>
#include <random>
#include <set>

#include "base/error.h"
#include "program/elementwise.h"
#include "tests/catch.h"
#include "tests/program/random_program.h"
#include "tests/program/rig.h"

using namespace megatron;
using namespace megatron::tiny;

namespace {

Program program_with_streams(unsigned seed) {
  Program program = random_program(seed, 14);
  if (seed % 2 == 0) move_weight_gradients(program);
  if (seed % 5 != 0) remove_dead_ops(program);
  std::mt19937 random(seed);
  for (Op& op : program.ops) op.stream = random() % 3 == 0 ? Stream::kComm : Stream::kCompute;
  return program;
}

/// A random order of a phase's operations in which each follows the ones before it on its stream and those it waits
/// for: what a device may do.
std::vector<OpId> possible_order(const Plan& plan, Phase phase, std::mt19937& random) {
  std::vector<OpId> streams[Device::kStreams], order;
  for (OpId id : plan.program.list(phase)) {
    if (!plan.program.op(id).kind->is_view()) streams[static_cast<size_t>(plan.program.op(id).stream)].push_back(id);
  }
  std::set<OpId> done;
  size_t next[Device::kStreams] = {};
  const auto ready = [&](size_t s) {
    if (next[s] == streams[s].size()) return false;
    const auto& waits = plan.waits[static_cast<size_t>(streams[s][next[s]])];
    return std::all_of(waits.begin(), waits.end(), [&](OpId id) { return done.count(id) > 0; });
  };
  while (next[0] < streams[0].size() || next[1] < streams[1].size()) {
    // Prefers one stream for a while: the further apart the streams get, the more is seen.
    const size_t first = random() % 8 == 0 ? random() % 2 : (order.size() / 8) % 2;
    const size_t s = ready(first) ? first : 1 - first;
    if (!ready(s)) return {};  // deadlock
    done.insert(streams[s][next[s]]);
    order.push_back(streams[s][next[s]++]);
  }
  return order;
}

std::vector<std::vector<double>> results_of(const Plan& plan) {
  const auto device = make_cpu_device();
  Store store(*device);
  ThreadPool pool(1);
  auto arena = std::make_shared<Buffer>(*device, plan.arena_bytes());
  std::memset(static_cast<void*>(arena->data()), 0xff, static_cast<size_t>(arena->bytes()));
  Executor executor(plan, store, arena, Executor::Options{&pool, {}});
  for (const auto& [name, id] : plan.program.by_name) {
    const Lifetime lifetime = plan.program.value(id).lifetime;
    if (lifetime == Lifetime::kState) continue;
    const Tensor t = lifetime == Lifetime::kInput ? executor.input(name) : store.find(name);
    int64_t i = 0;
    for_each_index(t.shape, [&](const Dims& index) { at(t, index) = number(name, i++); });
  }
  for (int phase = 0; phase < kPhases; ++phase) executor.run(static_cast<Phase>(phase));
  std::vector<std::vector<double>> all;
  for (const NamedValue& output : plan.program.outputs) all.push_back(to_vector(executor.output(output.name)));
  for (const auto& [name, tensor] : store.tensors()) all.push_back(to_vector(tensor));
  return all;
}

}  // namespace

TEST_CASE("random programs on two streams: every order that the events allow gives the same bits") {
  int64_t waits = 0, ops = 0, moved = 0;
  for (unsigned seed = 0; seed < 80; ++seed) {
    const Plan plan = pack(program_with_streams(seed));
    const auto expected = results_of(plan);
    std::mt19937 random(seed);
    for (int turn = 0; turn < 4; ++turn) {
      Plan other = plan;
      for (int phase = 0; phase < kPhases; ++phase) {
        const auto p = static_cast<Phase>(phase);
        const std::vector<OpId> order = possible_order(plan, p, random);
        std::vector<OpId> listed;
        for (OpId id : plan.program.list(p)) {
          if (!plan.program.op(id).kind->is_view()) listed.push_back(id);
          waits += static_cast<int64_t>(plan.waits[static_cast<size_t>(id)].size());
        }
        INFO("seed " << seed << ", phase " << name_of(p) << "\n" << print_program(plan.program));
        REQUIRE(order.size() == listed.size());
        moved += order != listed;
        ops += static_cast<int64_t>(order.size());
        other.program.list(p) = order;
      }
      const auto found = results_of(other);
      INFO("seed " << seed << ", turn " << turn << "\n" << print_program(plan.program));
      REQUIRE(found.size() == expected.size());
      for (size_t i = 0; i < found.size(); ++i) REQUIRE(same_bits(found[i], expected[i]));
    }
  }
  CHECK(moved > 100);      // the orders really differ
  CHECK(waits < ops / 2);  // and the streams are not chained to each other
}

namespace {

/// Something that all ranks of an axis do together.
struct Talk final : OpKind {
  explicit Talk(std::string over) : axis(std::move(over)) {}
  std::string name() const override { return "talk"; }
  std::string comm_axis() const override { return axis; }
  Signature signature(const Operands&) const override { return parse_signature("a->a", DType::kF64); }
  std::string axis;
};

}  // namespace

TEST_CASE("operations of one communicator on two streams keep the order of the list") {
  Program program;
  program.mesh = {{{"tp", 2, 0}, {"dp", 2, 0}}};
  Trace t(program);
  std::vector<OpId> ops;
  for (const char* axis : {"tp", "dp", "tp", "tp"}) {
    const std::string name = std::to_string(ops.size());
    const Value y = t.emit1(std::make_shared<Talk>(axis), {t.input("x" + name, DType::kF64, {8}, t.replicated())});
    t.output("y" + name, y);
    ops.push_back(program.value(y.id).producer);
  }
  program.op(ops[2]).stream = Stream::kCompute;  // as the loss over a vocabulary that ranks share
  const Plan plan = pack(program);
  const auto waits = [&](size_t i) { return plan.waits[static_cast<size_t>(ops[i])]; };
  CHECK(waits(0).empty());
  CHECK(waits(1).empty());
  CHECK(waits(2) == std::vector<OpId>{ops[0]});  // another communicator is no reason to wait
  CHECK(waits(3) == std::vector<OpId>{ops[2]});
}

TEST_CASE("an operation waits once for what another stream did, and not again for what came before it") {
  Program program;
  Trace t(program);
  const Value x = t.input("x", DType::kF64, {8}, {});
  const Value a = tiny::tanh(t, x), b = tiny::tanh(t, a), c = tiny::tanh(t, b), d = tiny::tanh(t, c);
  t.output("a", a);
  t.output("b", b);
  t.output("c", c);
  t.output("d", d);
  const auto producer = [&](Value v) { return program.value(v.id).producer; };
  program.op(producer(b)).stream = Stream::kComm;
  const Plan plan = pack(program);
  const auto waits = [&](Value v) { return plan.waits[static_cast<size_t>(producer(v))]; };
  CHECK(waits(a).empty());
  CHECK(waits(b) == std::vector<OpId>{producer(a)});
  CHECK(waits(c) == std::vector<OpId>{producer(b)});
  CHECK(waits(d).empty());
}

TEST_CASE("a wait does not go through an operation that runs once per step") {
  Program program;
  Trace t(program);
  const Value x = t.input("x", DType::kF64, {8}, {});
  const Value a = tiny::tanh(t, x), b = tiny::tanh(t, a), c = add(t, a, b);
  t.output("c", c);
  const auto producer = [&](Value v) { return program.value(v.id).producer; };
  program.op(producer(a)).stream = program.op(producer(b)).stream = Stream::kComm;
  program.op(producer(b)).edge = true;
  const Plan plan = pack(program);
  CHECK(plan.waits[static_cast<size_t>(producer(c))] == std::vector<OpId>{producer(b)});
  CHECK(plan.inner_waits[static_cast<size_t>(producer(c))] == std::vector<OpId>{producer(a)});
  CHECK(plan.inner_waits[static_cast<size_t>(producer(b))].empty());
}

TEST_CASE("operations at the edges of a step run there alone") {
  Program program;
  Trace t(program);
  const Value x = t.input("x", DType::kF64, {8}, {});
  const Value often = t.state("often", DType::kF64, {8}, {}), once = t.state("once", DType::kF64, {8}, {});
  accumulate(t, x, often);
  accumulate(t, x, once);
  program.op(program.list(Phase::kForward).back()).edge = true;
  const auto device = make_cpu_device();
  Store store(*device);
  ThreadPool pool(1);
  const Plan plan = pack(program);
  auto arena = std::make_shared<Buffer>(*device, plan.arena_bytes());
  Executor executor(plan, store, arena, Executor::Options{&pool, {}});
  std::fill_n(executor.input("x").as<double>(), 8, 1.0);
  for (int i = 0; i < 3; ++i) executor.run(Phase::kForward, 0, i == 0);
  CHECK(store.find("often").as<double>()[7] == 3.0);
  CHECK(store.find("once").as<double>()[7] == 1.0);
}

TEST_CASE("memory that work beside uses is not given to what runs meanwhile") {
  Program program;
  Trace t(program);
  const Value x = t.input("x", DType::kF64, {64}, {}), sum = t.state("sum", DType::kF64, {64}, {});
  const Value a = tiny::tanh(t, x);
  accumulate(t, a, sum);
  const OpId beside = program.list(Phase::kForward).back();
  program.op(beside).stream = Stream::kComm;
  const Value b = tiny::tanh(t, x), c = tiny::tanh(t, b), d = tiny::tanh(t, c);
  t.output("d", d);
  const Plan plan = pack(program);
  for (Value v : {b, c, d}) {
    const ValueId root = plan.program.value(v.id).storage.root;
    CHECK(plan.slots[static_cast<size_t>(root)].offset != plan.slots[static_cast<size_t>(a.id)].offset);
    CHECK(plan.waits[static_cast<size_t>(program.value(v.id).producer)].empty());
  }
}

TEST_CASE("an alias lies in the memory of another state") {
  Program program;
  program.mesh.axes = {{"dp", 2, 1}};
  Trace t(program);
  const Value g = t.state("g", DType::kF64, {5, 5}, {AxisPlacement::P()});
  const Value block = t.alias("block", g, {AxisPlacement::F()});
  CHECK(t.alias("block", g, {AxisPlacement::F()}) == block);
  CHECK_THROWS_AS(t.alias("block", g, {AxisPlacement::R()}), InternalError);
  CHECK_THROWS_AS(t.alias("x", t.input("in", DType::kF64, {5}, {AxisPlacement::R()}), {AxisPlacement::R()}),
                  InternalError);
  CHECK(program.is_alias(block.id));
  CHECK(program.value(block.id).storage.offset == 16);
  CHECK(program.local_shape(block.id) == Dims{9});
  // Element-wise operations take flat operands when all are; others refuse.
  CHECK(to_string(t.info(add(t, block, block)).placement, program.mesh) == "dp:F");
  CHECK_THROWS_AS(add(t, block, g), InternalError);
  const Value w = t.state("w", DType::kF64, {5, 5}, {AxisPlacement::R()});
  CHECK_THROWS_AS(t.emit1(std::make_shared<Matmul>(), {block, w}), InternalError);
}
