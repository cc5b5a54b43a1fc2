// What data-parallel ranks divide among them: whatever it is, training equals that of one rank.
#include "base/error.h"
#include "comm/buckets.h"
#include "tests/catch.h"
#include "tests/parallel/mesh_train.h"
#include "tests/parallel/models.h"

namespace megatron::testing {
namespace {

struct Layout {
  AxisSizes sizes;
  bool sequence_parallel;
};

const Layout kLayouts[] = {{{{"dp", 2}}, false},
                           {{{"dp", 4}}, false},
                           {{{"tp", 2}, {"dp", 2}}, false},
                           {{{"tp", 2}, {"dp", 4}}, true},
                           {{{"tp", 3}, {"dp", 2}}, true},
                           {{{"dp", 2}, {"dp_outer", 2}}, false},
                           {{{"tp", 2}, {"dp", 2}, {"dp_outer", 2}}, true}};

const Sharding kAll[] = {Sharding::kNothing, Sharding::kOptimizer, Sharding::kGradients, Sharding::kParameters};

TrainSetup with(TrainSetup setup, Sharding sharding) {
  setup.data.sharding = sharding;
  setup.data.bucket_elements = 300;  // several parameters, and several buckets
  return setup;
}

int count_ops(const Program& program, const std::string& name) {
  int count = 0;
  for (const auto& list : program.lists) {
    for (OpId id : list) count += program.op(id).kind->name() == name;
  }
  return count;
}

}  // namespace

TEST_CASE("sharding: first step equals one rank") {
  for (const TrainSetup& setup : {llama_setup(), gpt2_setup(), awkward_setup()}) {
    const TrainResult one = train_on(setup, {}, false);
    for (const Layout& layout : kLayouts) {
      for (const Sharding sharding : kAll) {
        INFO(name_of(layout.sizes, layout.sequence_parallel) << " sharding " << static_cast<int>(sharding));
        const TrainResult many = train_on(with(setup, sharding), layout.sizes, layout.sequence_parallel);
        CHECK(relative_difference(many.losses, one.losses) < 1e-12);
        CHECK(model_difference(many.first_gradients, one.first_gradients) < 1e-12);
        CHECK(relative_difference(many.norms, one.norms) < 1e-12);
        CHECK(model_difference(many.parameters, one.parameters) < 1e-9);
      }
    }
  }
}

TEST_CASE("sharding: 20 steps with clipping and accumulation equal one rank") {
  for (const TrainSetup& base : {gpt2_setup(), awkward_setup()}) {
    TrainSetup setup = base;
    setup.steps = 20;
    const TrainResult one = train_on(setup, {}, false);
    CHECK(*std::min_element(one.coefficients.begin(), one.coefficients.end()) < 0.9);  // clipping is at work
    for (const Layout& layout : {kLayouts[1], kLayouts[3], kLayouts[6]}) {
      for (const Sharding sharding : kAll) {
        INFO(name_of(layout.sizes, layout.sequence_parallel) << " sharding " << static_cast<int>(sharding));
        const TrainResult many = train_on(with(setup, sharding), layout.sizes, layout.sequence_parallel);
        CHECK(relative_difference(many.losses, one.losses) < 1e-10);
        CHECK(relative_difference(many.norms, one.norms) < 1e-8);
      }
    }
  }
}

TEST_CASE("sharding: overlapping changes nothing at all") {
  for (const TrainSetup& base : {gpt2_setup(), awkward_setup()}) {
    TrainSetup setup = base;
    setup.steps = 4;
    for (const Layout& layout : {kLayouts[1], kLayouts[3], kLayouts[6]}) {
      for (const Sharding sharding : kAll) {
        const TrainResult plain = train_on(with(setup, sharding), layout.sizes, layout.sequence_parallel);
        for (const bool gathers : {false, true}) {
          INFO(name_of(layout.sizes, layout.sequence_parallel)
               << " sharding " << static_cast<int>(sharding) << (gathers ? ", gathers" : ""));
          TrainSetup overlapped = with(setup, sharding);
          overlapped.data.overlap_grad_reduce = true;
          overlapped.data.overlap_param_gather = gathers && sharding != Sharding::kNothing;
          const TrainResult many = train_on(overlapped, layout.sizes, layout.sequence_parallel);
          CHECK(many.losses == plain.losses);
          CHECK(many.norms == plain.norms);
          CHECK(many.parameters == plain.parameters);
        }
      }
    }
  }
}

TEST_CASE("sharding: fp32, 16 bits with master copies, sgd") {
  TrainSetup single = gpt2_setup();
  single.spec.dtype = DType::kF32;
  single.steps = 20;
  TrainSetup half = llama_setup();
  half.spec.dtype = DType::kBF16;
  half.steps = 10;
  TrainSetup sgd = llama_setup();
  sgd.optimizer.optimizer = "sgd";
  sgd.steps = 5;
  const TrainResult one = train_on(single, {}, false), one_half = train_on(half, {}, false),
                    one_sgd = train_on(sgd, {}, false);
  for (const Sharding sharding : kAll) {
    INFO("sharding " << static_cast<int>(sharding));
    const TrainResult many = train_on(with(single, sharding), {{"tp", 2}, {"dp", 2}}, true);
    CHECK(model_difference(many.first_gradients, one.first_gradients) < 1e-5);
    CHECK(relative_difference(many.losses, one.losses) < 1e-4);
    const TrainResult many_sgd = train_on(with(sgd, sharding), {{"dp", 4}}, false);
    CHECK(relative_difference(many_sgd.losses, one_sgd.losses) < 1e-12);
    CHECK(model_difference(many_sgd.parameters, one_sgd.parameters) < 1e-12);
    const TrainResult many_half = train_on(with(half, sharding), {{"dp", 4}}, false);
    CHECK(relative_difference(many_half.losses, one_half.losses) < 0.02);
    // Only where gradients are summed differs: the same bits.
    CHECK(many_half.losses == train_on(with(half, Sharding::kNothing), {{"dp", 4}}, false).losses);
    TrainSetup wire = with(half, sharding);
    wire.data.reduce_in_bf16 = true;
    const TrainResult rounded = train_on(wire, {{"dp", 4}}, false);
    CHECK(relative_difference(rounded.losses, one_half.losses) < 0.02);
    CHECK(rounded.norms != many_half.norms);  // it did travel as bf16
  }
}

TEST_CASE("sharding: planted faults are caught by the comparison with one rank") {
  const TrainSetup base = llama_setup();
  const TrainResult one = train_on(base, {}, false);
  const auto differs = [&](const TrainSetup& setup) {
    try {
      return model_difference(train_on(setup, {{"dp", 2}}, false).parameters, one.parameters) > 1e-6;
    } catch (const std::runtime_error&) {
      return true;  // replicas differ
    }
  };
  const auto first_of = [](Program& program, const char* name) -> Op& {
    for (OpId id : program.list(Phase::kForward)) {
      if (program.op(id).kind->name() == name) return program.op(id);
    }
    throw std::runtime_error(std::string("no ") + name);
  };
  TrainSetup setup = with(base, Sharding::kOptimizer);
  CHECK(!differs(setup));
  SECTION("a sum that is left out") {
    setup.change_update = [&](Program& update) {
      const Op& op = first_of(update, "reduce_scatter_into");
      std::erase_if(update.list(Phase::kForward), [&](OpId id) { return &update.op(id) == &op; });
    };
    CHECK(differs(setup));
  }
  SECTION("a gather that is left out") {
    setup.change_update = [&](Program& update) {
      const Op& op = first_of(update, "all_gather_into");
      std::erase_if(update.list(Phase::kForward), [&](OpId id) { return &update.op(id) == &op; });
    };
    CHECK(differs(setup));
  }
  SECTION("a bucket that misses a member") {
    setup.change_update = [&](Program& update) {
      Op& op = first_of(update, "reduce_scatter_into");
      const size_t members = op.operands.size() / 2;
      REQUIRE(members > 1);
      Program rest;
      rest.mesh = update.mesh;
      Trace t(rest);
      std::vector<Value> partial, sums;  // the same operation for all but the last
      for (size_t i = 0; i + 1 < members; ++i) {
        const ValueInfo g = update.value(op.operands[i]), sum = update.value(op.operands[members + i]);
        partial.push_back(t.state(g.name, g.dtype, g.shape, g.placement));
        sums.push_back(t.alias(sum.name, partial.back(), sum.placement));
      }
      reduce_scatter_into(t, partial, sums, "dp");
      op.kind = rest.ops.back().kind;
      op.operands.erase(op.operands.begin() + static_cast<std::ptrdiff_t>(members) - 1);
      op.operands.pop_back();
      verify(update);
    };
    CHECK(differs(setup));
  }
  SECTION("a block with wrong borders") {
    setup.change_update = [&](Program& update) {
      const Op& op = first_of(update, "flat_slice");
      if (update.mesh.axes[0].coordinate > 0) return;
      update.value(op.results[0]).storage.offset += kFlatUnit;
    };
    CHECK(differs(setup));
  }
  SECTION("a block of the wrong size is refused") {
    const Mesh mesh = meshes_of({{"dp", 2}})[0];
    Program program;
    program.mesh = mesh;
    Trace t(program);
    const Value g = t.state("g", DType::kF32, {40}, {AxisPlacement::P()});
    const Value other = t.state("other", DType::kF32, {48}, {AxisPlacement::F()});
    CHECK_THROWS_AS(reduce_scatter_into(t, {g}, {other}, "dp"), InternalError);
    CHECK_THROWS_AS(all_reduce_into(t, {g}, {other}, "dp"), InternalError);
    CHECK_THROWS_AS(all_gather_flat(t, {g}, "dp"), InternalError);
  }
}

TEST_CASE("sharding: a rank holds its share of what is divided") {
  const auto bytes = [](const Program& program, const std::string& prefix) {
    int64_t sum = 0;
    for (const auto& [name, id] : program.by_name) {
      if (name.rfind(prefix, 0) == 0 && !program.is_alias(id)) sum += program.local_bytes(id);
    }
    return sum;
  };
  const Mesh mesh = meshes_of({{"dp", 4}})[0];
  std::map<Sharding, std::array<int64_t, 3>> held;  // parameters, gradients, first moments
  for (const Sharding sharding : kAll) {
    const TrainSetup setup = with(llama_setup(), sharding);
    const Program train = loss_program(setup, mesh, false);
    std::vector<std::string> names;
    for (const ParameterInfo& p : train.parameters) names.push_back(train.value(p.value).name);
    const Program update =
        make_update_program(train, setup.optimizer, make_param_groups(names, {}, {}), {}, setup.data);
    held[sharding] = {bytes(train, "decoder."), bytes(train, "gradient/decoder."),
                      bytes(update, "optimizer.state.exp_avg.decoder.")};
    CHECK((count_ops(update, "all_gather_into") > 1) ==
          (sharding == Sharding::kOptimizer || sharding == Sharding::kGradients));
    CHECK((count_ops(update, "all_reduce_into") > 1) == (sharding == Sharding::kNothing));
    CHECK((count_ops(update, "reduce_scatter_into") > 1) == (sharding == Sharding::kOptimizer));
  }
  const auto whole = held[Sharding::kNothing];
  const auto is_quarter = [](int64_t part, int64_t all) { return part < all / 3 && part >= all / 4; };
  CHECK(held[Sharding::kOptimizer][1] == whole[1]);
  CHECK(is_quarter(held[Sharding::kOptimizer][2], whole[2]));
  CHECK(held[Sharding::kGradients][0] == whole[0]);
  CHECK(is_quarter(held[Sharding::kGradients][1], whole[1]));
  CHECK(is_quarter(held[Sharding::kParameters][0], whole[0]));
  CHECK(is_quarter(held[Sharding::kParameters][1], whole[1]));
  CHECK(is_quarter(held[Sharding::kParameters][2], whole[2]));
}

}  // namespace megatron::testing
