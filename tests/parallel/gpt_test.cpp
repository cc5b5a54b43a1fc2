// Whole gpt models on meshes: every run equals one rank.
#include "tests/parallel/mesh_train.h"

#include "tests/catch.h"
#include "tests/parallel/models.h"

namespace megatron::testing {
namespace {

struct Layout {
  AxisSizes sizes;
  bool sequence_parallel;
};

const std::vector<Layout> kLayouts = {{{{"tp", 2}}, false},
                                      {{{"tp", 4}}, false},
                                      {{{"tp", 3}}, false},
                                      {{{"tp", 2}}, true},
                                      {{{"tp", 4}}, true},
                                      {{{"tp", 3}}, true},
                                      {{{"dp", 2}}, false},
                                      {{{"tp", 2}, {"dp", 2}}, false},
                                      {{{"tp", 2}, {"dp", 2}}, true},
                                      {{{"tp", 2}, {"dp", 3}}, true},
                                      {{{"dp", 4}}, false},
                                      {{{"tp", 2}, {"dp", 4}}, true}};

/// DESIGN's measure: gradients of the whole model at the first step.
void check_gradients(const TrainSetup& setup, const std::vector<Layout>& layouts) {
  const TrainResult one = train_on(setup, {}, false);
  for (const Layout& layout : layouts) {
    INFO(name_of(layout.sizes, layout.sequence_parallel));
    const TrainResult many = train_on(setup, layout.sizes, layout.sequence_parallel);
    CHECK(relative_difference(many.losses, one.losses) < 1e-12);
    CHECK(model_difference(many.first_gradients, one.first_gradients) < 1e-12);
    CHECK(relative_difference(many.norms, one.norms) < 1e-12);
    CHECK(model_difference(many.parameters, one.parameters) < 1e-9);
  }
}

}  // namespace

TEST_CASE("first step: gradients and norm on any mesh equal one rank") {
  SECTION("llama") {
    check_gradients(llama_setup(), kLayouts);
  }
  SECTION("gpt2 with dropout") {
    check_gradients(gpt2_setup(), kLayouts);
  }
  SECTION("nothing divides") {
    check_gradients(awkward_setup(), kLayouts);
  }
}

TEST_CASE("fewer key-value groups than tensor ranks") {
  for (int64_t groups : {1, 2}) {
    TrainSetup setup = awkward_setup();
    for (LayerSpec& layer : setup.spec.layers) {
      layer.attention.heads = 12;
      layer.attention.groups = groups;
    }
    INFO("groups " << groups);
    check_gradients(setup, {{{{"tp", 2}}, false},
                            {{{"tp", 4}}, true},
                            {{{"tp", 3}}, true},
                            {{{"tp", 5}}, false},
                            {{{"tp", 4}, {"dp", 2}}, true}});
  }
}

TEST_CASE("20 steps with clipping and accumulation equal one rank") {
  for (const TrainSetup& base : {llama_setup(), gpt2_setup(), awkward_setup()}) {
    TrainSetup setup = base;
    setup.steps = 20;
    const TrainResult one = train_on(setup, {}, false);
    CHECK(*std::min_element(one.coefficients.begin(), one.coefficients.end()) < 0.9);  // clipping is at work
    CHECK(one.losses.back() < one.losses.front());
    for (const Layout& layout :
         {Layout{{{"tp", 4}}, true}, Layout{{{"tp", 3}}, false}, Layout{{{"tp", 2}, {"dp", 2}}, true}}) {
      INFO(name_of(layout.sizes, layout.sequence_parallel));
      const TrainResult many = train_on(setup, layout.sizes, layout.sequence_parallel);
      CHECK(relative_difference(many.losses, one.losses) < 1e-10);
      CHECK(relative_difference(many.norms, one.norms) < 1e-8);
    }
  }
}

TEST_CASE("padding alone on the last ranks, and more ranks than heads, channels and ids") {
  check_gradients(padded_setup(), {{{{"tp", 4}}, true}, {{{"tp", 3}}, false}});
  TrainSetup tiny = awkward_setup();
  tiny.spec.vocab_size = tiny.spec.padded_vocab_size = 4;
  for (LayerSpec& layer : tiny.spec.layers) {
    layer.attention.heads = 3;
    layer.attention.groups = 1;
    layer.mlp.ffn_hidden_size = 3;
  }
  check_gradients(tiny, {{{{"tp", 5}}, false}, {{{"tp", 5}}, true}, {{{"tp", 2}, {"dp", 4}}, true}});
}

TEST_CASE("recomputation on meshes changes nothing, and gathering again keeps less") {
  for (const TrainSetup& base : {gpt2_setup(), shared_groups_setup()}) {
    const TrainResult one = train_on(base, {}, false);
    TrainSetup all = base, gathered = base;
    all.change = [](Program& program) { recompute(program, [](const Program&, ValueId) { return true; }); };
    gathered.change = [](Program& program) { CHECK(recompute(program, is_gathered) > 0); };
    for (const TrainSetup* setup : {&all, &gathered}) {
      const TrainResult many = train_on(*setup, {{"tp", 4}, {"dp", 2}}, true);
      CHECK(model_difference(many.first_gradients, one.first_gradients) < 1e-12);
      CHECK(relative_difference(many.losses, one.losses) < 1e-12);
    }
    const Mesh mesh = meshes_of({{"tp", 4}})[0];
    CHECK(pack(loss_program(gathered, mesh, true)).arena_bytes() < pack(loss_program(base, mesh, true)).arena_bytes());
  }
}

TEST_CASE("two runs on a mesh give the same bits") {
  TrainSetup setup = awkward_setup();
  setup.steps = 3;
  const AxisSizes sizes = {{"tp", 3}, {"dp", 2}};
  const TrainResult a = train_on(setup, sizes, true), b = train_on(setup, sizes, true);
  CHECK(a.losses == b.losses);
  CHECK(a.norms == b.norms);
  CHECK(a.first_gradients == b.first_gradients);
  CHECK(a.parameters == b.parameters);
}

TEST_CASE("other types and the other optimizer") {
  TrainSetup single = gpt2_setup();
  single.spec.dtype = DType::kF32;
  single.steps = 20;
  const TrainResult one = train_on(single, {}, false), many = train_on(single, {{"tp", 2}, {"dp", 2}}, true);
  CHECK(model_difference(many.first_gradients, one.first_gradients) < 1e-5);
  CHECK(relative_difference(many.losses, one.losses) < 1e-4);

  TrainSetup half = llama_setup();  // 16 bits: with fp32 master copies
  half.spec.dtype = DType::kBF16;
  half.steps = 10;
  CHECK(relative_difference(train_on(half, {{"tp", 4}}, true).losses, train_on(half, {}, false).losses) < 0.02);

  TrainSetup sgd = llama_setup();
  sgd.optimizer.optimizer = "sgd";
  sgd.steps = 5;
  const TrainResult alone = train_on(sgd, {}, false), spread = train_on(sgd, {{"tp", 3}}, true);
  CHECK(relative_difference(spread.losses, alone.losses) < 1e-12);
  CHECK(model_difference(spread.parameters, alone.parameters) < 1e-12);
}

TEST_CASE("evaluation on meshes equals one rank") {
  const auto loss_on = [](const TrainSetup& setup, const AxisSizes& sizes, bool sequence_parallel) {
    MeshRun run(sizes);
    run.add("eval", [&](const Mesh& mesh) {
      Program program;
      program.name = "eval";
      program.mesh = mesh;
      Trace t(program, false);
      trace_loss(t, setup.spec, ParallelContext(mesh, sequence_parallel),
                 {.micro_batch_size = setup.micro_batch, .training = false});
      remove_dead_ops(program);
      return program;
    });
    ThreadPool pool(1);
    for (size_t r = 0; r < run.size(); ++r) initialize_parameters(run.program("eval", r), run.store(r), 17, pool);
    for (const char* name : {inputs::kTokens, inputs::kLabels})
      run.fill("eval", name, [&](int64_t i) { return static_cast<double>((i * 7 + i / 3) % setup.spec.vocab_size); });
    run.fill("eval", inputs::kWeights, [](int64_t i) { return i % 3 == 0 ? 0.0 : 1.0; });
    run.fill("eval", inputs::kPositions, [&](int64_t i) { return static_cast<double>(i / setup.micro_batch); });
    run.fill("eval", inputs::kSeed, [](int64_t) { return 0.0; });
    run.run("eval", {Phase::kForward});
    return run.global("eval", kLossSum);
  };
  for (const TrainSetup& setup : {gpt2_setup(), awkward_setup(), shared_groups_setup()}) {
    const Numbers one = loss_on(setup, {}, false);
    CHECK(one[0] > 1);
    for (const Layout& layout : kLayouts) {
      INFO(name_of(layout.sizes, layout.sequence_parallel));
      CHECK(relative_difference(loss_on(setup, layout.sizes, layout.sequence_parallel), one) < 1e-12);
    }
  }
}

TEST_CASE("losses are sums over data-parallel ranks") {
  const Program program = loss_program(llama_setup(), meshes_of({{"tp", 2}, {"dp", 2}})[0], true);
  CHECK(to_string(program.value(program.by_name.at(kLossSum)).placement, program.mesh) == "dp:P");
}

}  // namespace megatron::testing
