// Whole gpt models on meshes: every run equals one rank.
#include "tests/parallel/mesh_train.h"

#include "tests/catch.h"

namespace megatron::testing {
namespace {

/// LLaMA's shape with sizes that 2 and 4 divide.
TrainSetup llama() {
  TrainSetup setup;
  ModelSpec& spec = setup.spec;
  spec.hidden_size = 8;
  spec.vocab_size = 19;
  spec.padded_vocab_size = 24;
  spec.seq_length = 8;
  spec.max_positions = 8;
  spec.tied = false;
  spec.dtype = DType::kF64;
  spec.init_std = spec.output_init_std = spec.embedding_init_std = 0.3;
  LayerSpec layer;
  layer.norm.kind = NormSpec::Kind::kRmsNorm;
  layer.attention.heads = 8;
  layer.attention.groups = 4;
  layer.attention.head_dim = 4;
  layer.attention.softmax_scale = 0.5;
  layer.attention.rope.emplace().head_dim = 4;
  layer.mlp = {12, ActivationKind::kSilu, true, false};
  spec.layers = {layer, layer};
  spec.final_norm = layer.norm;
  setup.optimizer.clip_grad = 0.5;
  return setup;
}

/// GPT-2's shape with dropout everywhere: tied embeddings, learned positions, biases.
TrainSetup gpt2() {
  TrainSetup setup = llama();
  ModelSpec& spec = setup.spec;
  spec.tied = true;
  spec.learned_positions = true;
  spec.final_norm.kind = NormSpec::Kind::kLayerNorm;
  spec.embedding_dropout = 0.1;
  for (LayerSpec& layer : spec.layers) {
    layer.norm.kind = NormSpec::Kind::kLayerNorm;
    layer.attention.heads = layer.attention.groups = 4;
    layer.attention.qkv_bias = layer.attention.out_bias = true;
    layer.attention.rope.reset();
    layer.attention.dropout = 0.2;
    layer.mlp = {12, ActivationKind::kGeluTanh, false, true};
    layer.hidden_dropout = 0.15;
  }
  return setup;
}

/// Nothing divides: vocabulary, heads, groups, MLP, sequence, samples; QK norms, packed documents, a window.
TrainSetup awkward() {
  TrainSetup setup = llama();
  ModelSpec& spec = setup.spec;
  spec.hidden_size = 10;
  spec.vocab_size = 13;
  spec.padded_vocab_size = 13;
  spec.seq_length = 7;
  for (LayerSpec& layer : spec.layers) {
    layer.attention.heads = 10;
    layer.attention.groups = 5;
    layer.attention.qk_norm = true;
    layer.attention.qkv_bias = true;
    layer.mlp.ffn_hidden_size = 11;
  }
  spec.layers[1].attention.window_left = 2;
  spec.layers[1].attention.window_right = 0;
  spec.layers[1].attention.dropout = 0.3;
  spec.layers[1].hidden_dropout = 0.2;
  setup.attention_starts = true;
  setup.micro_batch = 3;
  return setup;
}

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
    check_gradients(llama(), kLayouts);
  }
  SECTION("gpt2 with dropout") {
    check_gradients(gpt2(), kLayouts);
  }
  SECTION("nothing divides") {
    check_gradients(awkward(), kLayouts);
  }
}

TEST_CASE("fewer key-value groups than tensor ranks") {
  for (int64_t groups : {1, 2}) {
    TrainSetup setup = awkward();
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
  for (const TrainSetup& base : {llama(), gpt2(), awkward()}) {
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
