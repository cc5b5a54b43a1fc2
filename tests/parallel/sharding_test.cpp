// What data-parallel ranks divide among them: whatever it is, training equals that of one rank.
#include "base/error.h"
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
