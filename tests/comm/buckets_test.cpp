// Collectives over many values at once, and groups of calls.
#include "comm/buckets.h"

#include "base/error.h"
#include "comm/flight_recorder.h"
#include "comm/mesh_comms.h"
#include "comm/thread_world.h"
#include "tests/catch.h"
#include "tests/comm/ranks.h"

using namespace megatron;
using namespace megatron::tiny;

namespace {

const AxisPlacement R = AxisPlacement::R(), F = AxisPlacement::F(), P = AxisPlacement::P();

/// Element i of a whole value of which every rank holds the same terms.
double sum_of(const std::string& name, int64_t i, int ranks, bool bf16) {
  const double term = number(name, i);
  return ranks * (bf16 ? static_cast<double>(static_cast<float>(BFloat16(term))) : term);
}

}  // namespace

TEST_CASE("buckets: sums in blocks and blocks gathered are the sums of all values") {
  for (const int ranks : {2, 3, 4}) {
    for (const bool bf16 : {false, true}) {
      const Ranks world({{"dp", ranks}});
      const std::map<std::string, Dims> shapes = {{"a", {5, 7}}, {"b", {3}}, {"c", {64}}, {"d", {2, 3, 9}}};
      const auto rigs = world.step([&](const Mesh& mesh) {
        Program program;
        program.mesh = mesh;
        Trace t(program);
        std::vector<Value> terms;
        for (const auto& [name, shape] : shapes) terms.push_back(t.input(name, DType::kF64, shape, {P}));
        const std::vector<Value> blocks = reduce_scatter_flat(t, terms, "dp", bf16);
        const std::vector<Value> wholes = all_gather_flat(t, blocks, "dp");
        for (size_t i = 0; i < terms.size(); ++i) {
          t.output("block" + t.info(terms[i]).name, blocks[i]);
          t.output(t.info(terms[i]).name, wholes[i]);
        }
        return program;
      });
      const double bound = bf16 ? 0.02 * ranks : 1e-14;  // sums of bf16 are rounded again
      for (int r = 0; r < ranks; ++r) {
        Executor& executor = rigs[static_cast<size_t>(r)]->executor();
        for (const auto& [name, shape] : shapes) {
          INFO(name << " on rank " << r << " of " << ranks);
          const std::vector<double> whole = to_vector(executor.output(name));
          const std::vector<double> block = to_vector(executor.output("block" + name));
          const Block range = flat_block(shape.numel(), ranks, r);
          REQUIRE(std::ssize(whole) == shape.numel());
          REQUIRE(std::ssize(block) == range.size);
          for (int64_t i = 0; i < shape.numel(); ++i) {
            CHECK(std::abs(whole[static_cast<size_t>(i)] - sum_of(name, i, ranks, bf16)) < bound);
          }
          for (int64_t i = 0; i < range.size; ++i) {
            CHECK(block[static_cast<size_t>(i)] == whole[static_cast<size_t>(range.begin + i)]);
          }
        }
      }
    }
  }
}

TEST_CASE("buckets: adjoints of what a module takes leave each rank its block of the gradient") {
  for (const bool gathers : {false, true}) {
    const Ranks world({{"dp", 3}});
    const auto rigs = world.step([&](const Mesh& mesh) {
      Program program;
      program.mesh = mesh;
      Trace t(program, true);
      const Value p = t.parameter("p", DType::kF64, {5, 7}, {gathers ? F : R}, Init::constant(0));
      const Value whole = gathers ? all_gather_flat(t, {p}, "dp")[0] : share_flat(t, p, "dp");
      const Value x = t.input("x", DType::kF64, {6, 7}, {AxisPlacement::S(0)});  // samples: dp is partial
      add_loss(t, sum(t, matmul(t, x, whole)));
      differentiate(program);
      remove_dead_ops(program);
      return program;
    });
    for (int r = 0; r < 3; ++r) {
      const Block range = flat_block(35, 3, r);
      const Tensor g = rigs[static_cast<size_t>(r)]->store().find("gradient/p");
      REQUIRE(g.shape == Dims{range.size});
      for (int64_t i = 0; i < range.size; ++i) {
        double wanted = 0;
        for (int64_t row = 0; row < 6; ++row) wanted += number("x", row * 7 + (range.begin + i) % 7);
        CHECK(g.as<double>()[i] == Approx(number("seed0", 0) * wanted));
      }
    }
  }
}

TEST_CASE("buckets: placements and targets that do not fit are refused") {
  Program program;
  program.mesh.axes = {{"tp", 2, 0}, {"dp", 2, 0}};
  Trace t(program);
  const Value partial = t.state("partial", DType::kF32, {40}, {R, P});
  const Value block = t.state("block", DType::kF32, {40}, {R, F}), other = t.state("other", DType::kF32, {41}, {R, F});
  const Value whole = t.state("whole", DType::kF32, {40}, {R, R});
  const auto text = [&](const auto& body) { return message_of(body); };
  CHECK(contains(text([&] { reduce_scatter_flat(t, {whole}, "dp"); }), "not partial over dp"));
  CHECK(contains(text([&] { all_gather_flat(t, {partial}, "dp"); }), "not flat over dp"));
  CHECK(contains(text([&] { reduce_scatter_into(t, {partial}, {other}, "dp"); }), "give every source its own target"));
  CHECK(contains(text([&] { all_reduce_into(t, {partial}, {block}, "dp"); }), "give every source its own target"));
  CHECK(contains(text([&] { flat_slice(t, block, "tp"); }), "flat over another axis already"));
  CHECK(contains(text([&] { all_gather_flat(t, {block}, "pp"); }), "no axis 'pp'"));
  CHECK(text([&] { all_gather_into(t, {block}, {whole}, "dp"); }).empty());
}

TEST_CASE("buckets: the calls of a group are checked and recorded one by one") {
  std::vector<size_t> recorded(2);
  run_thread_ranks(2, [&](World& world) {
    const auto recorder = std::make_shared<FlightRecorder>();
    Mesh mesh;
    mesh.axes = {{"dp", 2, world.rank()}};
    const auto device = make_cpu_device();
    MeshComms comms = make_mesh_comms(world, mesh, *device, recorder);
    float a = 1, b = 2;
    std::vector<CommCall> calls(2);
    for (CommCall& call : calls) call.op = CommOp::kAllReduce;
    calls[0].source = calls[0].target = make_tensor(&a, DType::kF32, {});
    calls[1].source = calls[1].target = make_tensor(&b, DType::kF32, {});
    comms.find("dp")->run_checked(calls);
    CHECK(a == 2);
    CHECK(b == 4);
    recorded[static_cast<size_t>(world.rank())] = recorder->records().size();
    calls[1].target.shape = Dims{2};
    CHECK_THROWS_AS(comms.find("dp")->run_checked(calls), InternalError);
  });
  CHECK(recorded == std::vector<size_t>{2, 2});
}
