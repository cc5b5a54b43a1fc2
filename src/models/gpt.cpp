// Family `gpt`: GPT-2/3 and LLaMA, Mistral, Qwen by options.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "config/layer_config.h"
#include "models/model_spec.h"

namespace megatron {
namespace {

ActivationKind parse_activation(const std::string& name) {
  if (name == "gelu") return ActivationKind::kGeluErf;
  for (ActivationKind kind : kAllActivations) {
    if (name == name_of(kind)) return kind;
  }
  throw UsageError("model.activation_func: unknown activation '" + name + "'");
}

NormSpec norm_spec(const ModelConfig& model, const std::string& normalization) {
  NormSpec spec;
  spec.kind = normalization == "RMSNorm" ? NormSpec::Kind::kRmsNorm : NormSpec::Kind::kLayerNorm;
  spec.epsilon = model.norm_epsilon;
  spec.zero_centered = model.apply_layernorm_1p;
  return spec;
}

RopeSpec rope_spec(const ModelConfig& model, const LayerConfig& layer) {
  RopeSpec spec;
  spec.head_dim = layer.kv_channels;
  spec.base = layer.rotary_base;
  spec.percent = model.rotary_percent;
  spec.interleaved = model.rotary_interleaved;
  spec.seq_len_interpolation_factor = model.rotary_seq_len_interpolation_factor.value_or(1.0);
  spec.llama3.on = model.use_rope_scaling;
  spec.llama3.factor = model.rope_scaling_factor;
  if (model.position_embedding_type == "yarn") {
    spec.yarn.on = true;
    spec.yarn.factor = model.yarn_rotary_scaling_factor;
    spec.yarn.original_max_position = static_cast<double>(model.yarn_original_max_position_embeddings);
    spec.yarn.beta_fast = model.yarn_beta_fast;
    spec.yarn.beta_slow = model.yarn_beta_slow;
    spec.yarn.mscale = model.yarn_mscale;
    spec.yarn.mscale_all_dim = model.yarn_mscale_all_dim;
    spec.yarn.round_to_int = model.yarn_correction_range_round_to_int;
  }
  return spec;
}

LayerSpec layer_spec(const ModelConfig& model, const LayerConfig& layer) {
  LayerSpec spec;
  spec.norm = norm_spec(model, layer.normalization);
  AttentionSpec& a = spec.attention;
  a.heads = layer.num_attention_heads;
  a.groups = layer.num_query_groups;
  a.head_dim = layer.kv_channels;
  a.qkv_bias = model.add_qkv_bias;
  a.out_bias = model.add_bias_linear;
  a.qk_norm = layer.qk_layernorm;
  if (layer.rotary) a.rope = rope_spec(model, layer);
  if (!layer.window_size.empty()) {
    a.window_left = layer.window_size[0];
    a.window_right = layer.window_size[1];
  }
  a.softmax_scale = layer.softmax_scale;
  a.dropout = layer.attention_dropout;
  spec.mlp.ffn_hidden_size = layer.ffn_hidden_size;
  spec.mlp.activation = parse_activation(layer.activation_func);
  spec.mlp.gated = layer.gated_linear_unit;
  spec.mlp.bias = model.add_bias_linear;
  spec.hidden_dropout = layer.hidden_dropout;
  return spec;
}

/// Weights of the matrices that every token goes through in one layer.
int64_t layer_matrix_weights(const ModelSpec& spec, const LayerSpec& layer) {
  const AttentionSpec& a = layer.attention;
  const int64_t qkv = (a.heads + 2 * a.groups) * a.head_dim * spec.hidden_size;
  const int64_t out = a.heads * a.head_dim * spec.hidden_size;
  return qkv + out + (layer.mlp.gated ? 3 : 2) * layer.mlp.ffn_hidden_size * spec.hidden_size;
}

/// Mean number of keys that a query of a full sequence sees.
double visible_keys(const ModelSpec& spec, const AttentionSpec& attention) {
  const auto s = static_cast<double>(spec.seq_length);
  if (attention.window_left < 0 || attention.window_left + 1 >= spec.seq_length) return s / 2;
  const auto w = static_cast<double>(attention.window_left + 1);
  return w - w * w / (2 * s);
}

}  // namespace

ModelSpec make_model_spec(const Config& config, int64_t vocab_size) {
  const ModelConfig& model = config.model;
  if (model.family != "gpt") throw UsageError("model.family: '" + model.family + "' is not a family; use gpt");
  ModelSpec spec;
  spec.hidden_size = model.hidden_size;
  spec.vocab_size = vocab_size;
  spec.padded_vocab_size = padded_vocab_size(config, vocab_size);
  spec.seq_length = model.seq_length;
  spec.max_positions = model.max_position_embeddings;
  spec.learned_positions = model.position_embedding_type == "learned_absolute";
  spec.tied = !model.untie_embeddings_and_output_weights;
  for (int64_t i = 0; i < model.num_layers; ++i) spec.layers.push_back(layer_spec(model, layer_config(model, i)));
  spec.final_norm = norm_spec(model, model.normalization);
  spec.embedding_dropout = model.hidden_dropout;
  spec.init_std = model.init_method_std;
  spec.output_init_std = model.init_method_std / std::sqrt(2.0 * static_cast<double>(model.num_layers));
  spec.embedding_init_std = model.embedding_init_method_std.value_or(model.init_method_std);
  spec.xavier_uniform = model.init_method_xavier_uniform;
  spec.dtype = parse_dtype(config.precision.params_dtype);
  spec.seed = static_cast<uint64_t>(config.run.seed);
  spec.deterministic = config.run.deterministic_mode;
  return spec;
}

int64_t parameter_count(const ModelSpec& spec) {
  const int64_t h = spec.hidden_size;
  const auto norm = [](const NormSpec& n, int64_t size) {
    return n.kind == NormSpec::Kind::kLayerNorm ? 2 * size : size;
  };
  int64_t count = spec.vocab_size * h * (spec.tied ? 1 : 2);
  if (spec.learned_positions) count += spec.max_positions * h;
  for (const LayerSpec& layer : spec.layers) {
    const AttentionSpec& a = layer.attention;
    count += layer_matrix_weights(spec, layer) + 2 * norm(layer.norm, h);
    if (a.qkv_bias) count += (a.heads + 2 * a.groups) * a.head_dim;
    if (a.out_bias) count += h;
    if (a.qk_norm) count += 2 * norm(layer.norm, a.head_dim);
    if (layer.mlp.bias) count += (layer.mlp.gated ? 2 : 1) * layer.mlp.ffn_hidden_size + h;
  }
  return count + norm(spec.final_norm, h);
}

double flops_per_token(const ModelSpec& spec) {
  double flops = 6.0 * static_cast<double>(spec.vocab_size) * static_cast<double>(spec.hidden_size);
  for (const LayerSpec& layer : spec.layers) {
    const AttentionSpec& a = layer.attention;
    flops += 6.0 * static_cast<double>(layer_matrix_weights(spec, layer));
    // Two products of 2 d FLOPs per visible key and head, forward, and twice that backward.
    flops += 12.0 * visible_keys(spec, a) * static_cast<double>(a.heads * a.head_dim);
  }
  return flops;
}

}  // namespace megatron
