// The small models that tests of meshes train.
#pragma once

#include "tests/parallel/mesh_train.h"

namespace megatron::testing {

/// LLaMA's shape with sizes that 2 and 4 divide.
inline TrainSetup llama_setup() {
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
inline TrainSetup gpt2_setup() {
  TrainSetup setup = llama_setup();
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
inline TrainSetup awkward_setup() {
  TrainSetup setup = llama_setup();
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

/// Fewer key-value groups than ranks, with biases.
inline TrainSetup shared_groups_setup() {
  TrainSetup setup = llama_setup();
  setup.spec.layers[0].attention.groups = 2;
  setup.spec.layers[1].attention.groups = 1;
  for (LayerSpec& layer : setup.spec.layers) layer.attention.qkv_bias = true;
  return setup;
}

/// So much padding that the last ranks hold nothing else.
inline TrainSetup padded_setup() {
  TrainSetup setup = gpt2_setup();
  setup.spec.vocab_size = 9;
  setup.spec.padded_vocab_size = 32;
  return setup;
}

}  // namespace megatron::testing
