// Context parallelism: gpt models whose ranks share sequences equal one rank.
#include "tests/catch.h"
#include "tests/parallel/mesh_train.h"
#include "tests/parallel/models.h"

namespace megatron::testing {
namespace {

struct Layout {
  AxisSizes sizes;
  bool sequence_parallel = false;
};

/// DESIGN's measure: gradients of the whole model at the first step.
void check_gradients(TrainSetup setup, const std::string& cp_comm_type, const std::vector<Layout>& layouts) {
  const TrainResult one = train_on(setup, {}, false);
  setup.cp_comm_type = cp_comm_type;
  for (const Layout& layout : layouts) {
    INFO(cp_comm_type << " " << name_of(layout.sizes, layout.sequence_parallel));
    const TrainResult many = train_on(setup, layout.sizes, layout.sequence_parallel);
    CHECK(relative_difference(many.losses, one.losses) < 1e-12);
    CHECK(model_difference(many.first_gradients, one.first_gradients) < 1e-12);
    CHECK(relative_difference(many.norms, one.norms) < 1e-12);
    CHECK(model_difference(many.parameters, one.parameters) < 1e-9);
  }
}

/// awkward_setup() with a length that 4 ranks can share: groups that nothing divides, windows, documents, dropout.
TrainSetup awkward_context_setup() {
  TrainSetup setup = awkward_setup();
  setup.spec.seq_length = setup.spec.max_positions = 16;
  return setup;
}

const std::vector<Layout> kLayouts = {{{{"cp", 2}}},
                                      {{{"cp", 4}}},
                                      {{{"tp", 2}, {"cp", 2}}},
                                      {{{"tp", 2}, {"cp", 2}}, true},
                                      {{{"cp", 2}, {"dp", 2}}},
                                      {{{"tp", 2}, {"cp", 2}, {"dp", 2}}, true}};
const std::vector<Layout> kAwkwardLayouts = {{{{"cp", 4}}}, {{{"tp", 3}, {"cp", 2}}, true}, {{{"cp", 2}, {"dp", 3}}}};

}  // namespace

TEST_CASE("context parallelism: keys gathered") {
  check_gradients(llama_setup(), "all_gather", kLayouts);
  check_gradients(gpt2_setup(), "all_gather", kLayouts);
  check_gradients(shared_groups_setup(), "all_gather", kLayouts);
  check_gradients(awkward_context_setup(), "all_gather", kAwkwardLayouts);
}

TEST_CASE("context parallelism: a ring of keys") {
  check_gradients(llama_setup(), "p2p", kLayouts);
  check_gradients(gpt2_setup(), "p2p", kLayouts);
  check_gradients(shared_groups_setup(), "p2p", kLayouts);
  check_gradients(awkward_context_setup(), "p2p", kAwkwardLayouts);
}

TEST_CASE("context parallelism: heads for sequence") {
  check_gradients(llama_setup(), "a2a", kLayouts);
  check_gradients(gpt2_setup(), "a2a", kLayouts);
  check_gradients(shared_groups_setup(), "a2a", kLayouts);  // groups for no rank, and queries for all
  TrainSetup awkward = awkward_context_setup();
  for (LayerSpec& layer : awkward.spec.layers) layer.attention.heads = 20;  // groups stay 5
  check_gradients(awkward, "a2a", {{{{"cp", 4}}}, {{{"cp", 2}, {"dp", 3}}}});
}

TEST_CASE("context parallelism: heads for sequence among neighbours, a ring between them") {
  const std::vector<Layout> layouts = {{{{"cp_a2a", 2}, {"cp_p2p", 2}}},
                                       {{{"tp", 2}, {"cp_a2a", 2}, {"cp_p2p", 2}}, true},
                                       {{{"cp_a2a", 2}, {"cp_p2p", 2}, {"dp", 2}}}};
  check_gradients(llama_setup(), "a2a+p2p", layouts);
  check_gradients(gpt2_setup(), "a2a+p2p", layouts);
  check_gradients(awkward_context_setup(), "a2a+p2p", {{{{"cp_a2a", 2}, {"cp_p2p", 4}}}});
}

}  // namespace megatron::testing
