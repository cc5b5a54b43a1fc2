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

TEST_CASE("context parallelism: 20 steps with clipping and accumulation") {
  for (TrainSetup setup : {gpt2_setup(), awkward_context_setup()}) {
    setup.steps = 20;
    const TrainResult one = train_on(setup, {}, false);
    CHECK(one.losses.back() < one.losses.front());
    for (const char* kind : {"p2p", "all_gather"}) {
      setup.cp_comm_type = kind;
      const TrainResult many = train_on(setup, {{"tp", 2}, {"cp", 2}}, true);
      CHECK(relative_difference(many.losses, one.losses) < 1e-10);
      CHECK(relative_difference(many.norms, one.norms) < 1e-8);
    }
  }
}

TEST_CASE("context parallelism: recomputation changes nothing, and two runs give the same bits") {
  for (const char* kind : {"p2p", "all_gather", "a2a"}) {
    TrainSetup setup = gpt2_setup();
    setup.cp_comm_type = kind;
    const AxisSizes sizes = {{"cp", 4}};
    const TrainResult kept = train_on(setup, sizes, false);
    CHECK(train_on(setup, sizes, false).first_gradients == kept.first_gradients);
    setup.change = [](Program& program) {
      CHECK(recompute(program, [](const Program&, ValueId) { return true; }) > 0);
    };
    const TrainResult again = train_on(setup, sizes, false);
    CHECK(again.losses == kept.losses);
    CHECK(again.first_gradients == kept.first_gradients);
  }
}

TEST_CASE("context parallelism: tokens at other places than the zig-zag's are noticed") {
  for (const char* kind : {"p2p", "all_gather", "a2a"}) {
    TrainSetup setup = llama_setup();
    setup.cp_comm_type = kind;
    const TrainResult right = train_on(setup, {{"cp", 2}}, false);
    setup.parts_in_order = true;
    CHECK(relative_difference(train_on(setup, {{"cp", 2}}, false).losses, right.losses) > 1e-6);
  }
}

TEST_CASE("context parallelism: all ranks of a ring call the same collectives in the same order") {
  const auto calls = [](const Program& program) {
    std::vector<std::string> names;
    for (const auto& list : program.lists) {
      for (const OpId id : list) {
        const OpKind& kind = *program.op(id).kind;
        if (!kind.comm_axis().empty()) names.push_back(kind.name() + " " + kind.attributes());
      }
    }
    return names;
  };
  const std::vector<Mesh> meshes = meshes_of({{"cp", 4}});
  const std::vector<std::string> first = calls(loss_program(llama_setup(), meshes[0], false));
  CHECK(std::count(first.begin(), first.end(), "ring_shift cp by 1") ==
        2 * (3 + 3 + 3));  // layers; keys twice, gradients
  for (const Mesh& mesh : meshes) CHECK(calls(loss_program(llama_setup(), mesh, false)) == first);
}

}  // namespace megatron::testing
