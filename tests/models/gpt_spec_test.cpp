// Specs that configurations give, and the counts that are printed of them.
#include <cmath>
#include <set>
#include <string>

#include "base/error.h"
#include "config/load.h"
#include "models/model_spec.h"
#include "nn/language_model.h"
#include "tests/catch.h"

namespace megatron {
namespace {

Config config_of(const std::string& model) {
  const std::string text =
      std::string("model: {hidden_size: 64, num_attention_heads: 4, seq_length: 32, vocab_size: 300") +
      (model.find("num_layers") == std::string::npos ? ", num_layers: 4" : "") + (model.empty() ? "" : ", " + model) +
      "}\n"
      "data: {mock_data: true, tokenizer_type: NullTokenizer}\n"
      "training: {micro_batch_size: 2, train_iters: 10}\n"
      "optimizer: {lr: 0.001}\n";
  return load_config_text(text, "test.yaml").config;
}

ModelSpec spec_of(const std::string& model) {
  return make_model_spec(config_of(model), 300);
}

Program program_of(const ModelSpec& spec) {
  Program program;
  Trace trace(program, true);
  trace_loss(trace, spec, ParallelContext(), {.micro_batch_size = 1, .training = true, .attention_starts = false});
  return program;
}

/// Elements of all parameters that the modules declare, without padding rows.
int64_t declared_parameters(const ModelSpec& spec) {
  const Program program = program_of(spec);
  int64_t count = 0;
  for (const ParameterInfo& p : program.parameters) {
    const Dims& shape = program.value(p.value).shape;
    const int64_t row = shape.numel() / shape[0];
    count += (p.init.valid_rows >= 0 ? p.init.valid_rows : shape[0]) * row;
  }
  return count;
}

}  // namespace

TEST_CASE("specs: defaults are GPT-2's") {
  const ModelSpec spec = spec_of("");
  REQUIRE(spec.layers.size() == 4);
  CHECK(spec.padded_vocab_size == 384);
  CHECK(spec.vocab_size == 300);
  CHECK(spec.tied);
  CHECK(spec.learned_positions);
  CHECK(spec.output_init_std == Approx(0.02 / std::sqrt(8.0)));
  CHECK(spec.embedding_init_std == 0.02);
  CHECK(spec.embedding_dropout == 0.1);
  const LayerSpec& layer = spec.layers[3];
  CHECK(layer.norm.kind == NormSpec::Kind::kLayerNorm);
  CHECK(layer.attention.groups == 4);
  CHECK(layer.attention.head_dim == 16);
  CHECK(layer.attention.softmax_scale == 0.25);
  CHECK(layer.attention.qkv_bias);
  CHECK(layer.attention.out_bias);
  CHECK_FALSE(layer.attention.rope);
  CHECK(layer.mlp.ffn_hidden_size == 256);
  CHECK(layer.mlp.activation == ActivationKind::kGeluTanh);
  CHECK_FALSE(layer.mlp.gated);
  CHECK(layer.mlp.bias);
  CHECK(uses_dropout(spec));
  CHECK_FALSE(uses_dropout(spec_of("hidden_dropout: 0, attention_dropout: 0")));
}

TEST_CASE("specs: activations, and gelu is the exact one") {
  CHECK(spec_of("activation_func: gelu").layers[0].mlp.activation == ActivationKind::kGeluErf);
  CHECK(spec_of("activation_func: relu").layers[0].mlp.activation == ActivationKind::kRelu);
  CHECK(spec_of("squared_relu: true").layers[0].mlp.activation == ActivationKind::kSquaredRelu);
  const MlpSpec quick = spec_of("quick_geglu: true").layers[0].mlp;
  CHECK(quick.activation == ActivationKind::kQuickGelu);
  CHECK(quick.gated);
  const MlpSpec swiglu = spec_of("swiglu: true").layers[0].mlp;
  CHECK(swiglu.activation == ActivationKind::kSilu);
  CHECK(swiglu.gated);
  CHECK(swiglu.ffn_hidden_size == 128);
}

TEST_CASE("specs: positions") {
  const ModelSpec rope =
      spec_of("position_embedding_type: rope, rotary_percent: 0.5, rotary_base: 5000, rotary_interleaved: true");
  CHECK_FALSE(rope.learned_positions);
  REQUIRE(rope.layers[0].attention.rope);
  CHECK(rope.layers[0].attention.rope->base == 5000);
  CHECK(rope.layers[0].attention.rope->percent == 0.5);
  CHECK(rope.layers[0].attention.rope->interleaved);
  CHECK(rope.layers[0].attention.rope->head_dim == 16);
  CHECK_FALSE(rope.layers[0].attention.rope->yarn.on);
  const ModelSpec yarn = spec_of(
      "position_embedding_type: yarn, yarn_original_max_position_embeddings: 16, yarn_rotary_scaling_factor: 4");
  REQUIRE(yarn.layers[0].attention.rope);
  CHECK(yarn.layers[0].attention.rope->yarn.on);
  CHECK(yarn.layers[0].attention.rope->yarn.factor == 4);
  CHECK(yarn.layers[0].attention.rope->yarn.original_max_position == 16);
  const ModelSpec none = spec_of("position_embedding_type: none");
  CHECK_FALSE(none.learned_positions);
  CHECK_FALSE(none.layers[0].attention.rope);
  const ModelSpec some = spec_of("position_embedding_type: rope, no_rope_freq: [0, 1, 0, 1]");
  CHECK(some.layers[0].attention.rope);
  CHECK_FALSE(some.layers[1].attention.rope);
}

TEST_CASE("specs: layers that differ reach the modules") {
  const ModelSpec spec = spec_of(
      "position_embedding_type: rope, window_size: [7, 0], layers: [{layers: \"1-2\", num_query_groups: 1, "
      "ffn_hidden_size: 96, "
      "normalization: RMSNorm, activation_func: relu}, {layers: \"-1\", window_size: [], position_embedding_type: "
      "none, "
      "attention_dropout: 0.3, hidden_dropout: 0.4, qk_layernorm: true, softmax_scale: 0.5}]");
  CHECK(spec.layers[0].attention.window_left == 7);
  CHECK(spec.layers[0].attention.groups == 4);
  for (size_t i : {1u, 2u}) {
    CHECK(spec.layers[i].attention.groups == 1);
    CHECK(spec.layers[i].mlp.ffn_hidden_size == 96);
    CHECK(spec.layers[i].mlp.activation == ActivationKind::kRelu);
    CHECK(spec.layers[i].norm.kind == NormSpec::Kind::kRmsNorm);
  }
  const LayerSpec& last = spec.layers[3];
  CHECK(last.attention.window_left == -1);
  CHECK_FALSE(last.attention.rope);
  CHECK(last.attention.dropout == 0.3);
  CHECK(last.hidden_dropout == 0.4);
  CHECK(last.attention.qk_norm);
  CHECK(last.attention.softmax_scale == 0.5);
  CHECK(declared_parameters(spec) == parameter_count(spec));
}

TEST_CASE("parameter_count is what the modules declare") {
  for (const char* model :
       {"", "swiglu: true, add_bias_linear: false, normalization: RMSNorm, position_embedding_type: rope",
        "num_query_groups: 2, kv_channels: 24, qk_layernorm: true", "untie_embeddings_and_output_weights: true",
        "add_bias_linear: false, add_qkv_bias: true, qk_layernorm: true, normalization: RMSNorm",
        "quick_geglu: true, apply_layernorm_1p: true", "max_position_embeddings: 50"}) {
    CAPTURE(model);
    const ModelSpec spec = spec_of(model);
    CHECK(parameter_count(spec) == declared_parameters(spec));
  }
}

TEST_CASE("parameter names are Megatron-Core's, the table is shared when tied") {
  const auto names_of = [](const ModelSpec& spec) {
    std::set<std::string> names;
    const Program program = program_of(spec);
    for (const ParameterInfo& p : program.parameters) names.insert(program.value(p.value).name);
    return names;
  };
  const std::set<std::string> names = names_of(spec_of("num_layers: 1, qk_layernorm: true"));
  const std::string layer = "decoder.layers.0.";
  const std::set<std::string> expected = {"embedding.word_embeddings.weight",
                                          "embedding.position_embeddings.weight",
                                          layer + "input_layernorm.weight",
                                          layer + "input_layernorm.bias",
                                          layer + "self_attention.linear_qkv.weight",
                                          layer + "self_attention.linear_qkv.bias",
                                          layer + "self_attention.q_layernorm.weight",
                                          layer + "self_attention.q_layernorm.bias",
                                          layer + "self_attention.k_layernorm.weight",
                                          layer + "self_attention.k_layernorm.bias",
                                          layer + "self_attention.linear_proj.weight",
                                          layer + "self_attention.linear_proj.bias",
                                          layer + "pre_mlp_layernorm.weight",
                                          layer + "pre_mlp_layernorm.bias",
                                          layer + "mlp.linear_fc1.weight",
                                          layer + "mlp.linear_fc1.bias",
                                          layer + "mlp.linear_fc2.weight",
                                          layer + "mlp.linear_fc2.bias",
                                          "decoder.final_layernorm.weight",
                                          "decoder.final_layernorm.bias"};
  CHECK(names == expected);
  CHECK(names_of(spec_of("untie_embeddings_and_output_weights: true")).contains("output_layer.weight"));
}

TEST_CASE("FLOPs per token: six per weight of every product, six s h d per layer of causal attention") {
  const ModelSpec spec = spec_of("");
  const double weights = 4.0 * (4 * 64 * 64 + 2 * 64 * 256) + 300.0 * 64;
  const double scores = 4 * 6.0 * 32 * 64;
  CHECK(flops_per_token(spec) == Approx(6 * weights + scores).epsilon(1e-12));
  // A window of 8 of 32 tokens sees 8 - 8 * 8 / 64 = 7 keys on average instead of 16.
  const ModelSpec window = spec_of("window_size: [7, 0]");
  CHECK(flops_per_token(window) == Approx(6 * weights + 4 * 12.0 * 7 * 64).epsilon(1e-12));
}

TEST_CASE("specs: an unknown family is refused by name") {
  Config config = config_of("");
  config.model.family = "bert";
  try {
    make_model_spec(config, 300);
    FAIL("accepted");
  } catch (const UsageError& error) {
    CHECK(std::string(error.what()).find("bert") != std::string::npos);
  }
}

}  // namespace megatron
