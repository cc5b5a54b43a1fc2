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
                                      {{{"tp", 2}, {"dp", 3}}, true}};

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

}  // namespace megatron::testing
