#include "config/field.h"

namespace megatron {
namespace {

std::vector<std::string> activations() {
  return {"gelu_tanh", "gelu", "silu", "relu", "squared_relu", "quick_gelu"};
}
std::vector<std::string> norms() {
  return {"LayerNorm", "RMSNorm"};
}

void add_shape(FieldList& list, ModelConfig& c) {
  list.add("family", c.family, "Model family.").choice({"gpt"});
  list.add("num_layers", c.num_layers, "Number of transformer layers.").required().at_least(1);
  list.add("hidden_size", c.hidden_size, "Width of the residual stream.").required().at_least(1);
  list.add(
          "ffn_hidden_size", c.ffn_hidden_size,
          "Inner width of the MLP. Not set: 4 * hidden_size, or with a gated MLP int(4 * hidden_size * 2/3 / 64) * 64.")
      .derived()
      .at_least(1);
  list.add("num_attention_heads", c.num_attention_heads, "Number of query heads.").required().at_least(1);
  list.add("num_query_groups", c.num_query_groups,
           "Number of key and value heads, shared by equal groups of query heads. Not set: num_attention_heads.")
      .derived()
      .at_least(1);
  list.add("kv_channels", c.kv_channels, "Width of one head. Not set: hidden_size / num_attention_heads.")
      .derived()
      .at_least(1);
  list.add("seq_length", c.seq_length, "Tokens in one sample.").required().at_least(1);
  list.add("max_position_embeddings", c.max_position_embeddings,
           "Longest position the model is made for; rows of the table with learned_absolute. Not set: seq_length.")
      .derived()
      .at_least(1);
}

void add_positions(FieldList& list, ModelConfig& c) {
  list.add("position_embedding_type", c.position_embedding_type,
           "How positions enter: a learned table, rotation of queries and keys (rope, or yarn for stretched contexts), "
           "or not at all.")
      .choice({"learned_absolute", "rope", "yarn", "none"});
  list.add("rotary_base", c.rotary_base, "Base of the rotation frequencies (theta).").above(1);
  list.add("rotary_percent", c.rotary_percent, "Fraction of a head's channels that is rotated.").above(0).at_most(1);
  list.add("rotary_interleaved", c.rotary_interleaved,
           "Rotate neighbouring channels (2i, 2i+1) instead of channel i with channel i + half.");
  list.add("rotary_seq_len_interpolation_factor", c.rotary_seq_len_interpolation_factor,
           "Positions are divided by this before rotation. Not set: 1.")
      .above(0);
  list.add("use_rope_scaling", c.use_rope_scaling,
           "Stretch low rotation frequencies as LLaMA 3.1 does (original context 8192, factors 1 and 4).");
  list.add("rope_scaling_factor", c.rope_scaling_factor, "By how much use_rope_scaling stretches.").at_least(1);
  list.add("yarn_rotary_scaling_factor", c.yarn_rotary_scaling_factor, "By how much yarn stretches the context.")
      .at_least(1);
  list.add("yarn_original_max_position_embeddings", c.yarn_original_max_position_embeddings,
           "Context length before stretching; yarn needs it.")
      .at_least(0);
  list.add("yarn_beta_fast", c.yarn_beta_fast, "Yarn: channels with more turns than this keep their frequency.")
      .above(0);
  list.add("yarn_beta_slow", c.yarn_beta_slow, "Yarn: channels with fewer turns than this are stretched fully.")
      .above(0);
  list.add("yarn_mscale", c.yarn_mscale,
           "Yarn: numerator of the attention concentration mscale(factor, m) = 0.1 m ln(factor) + 1. "
           "Not set (this or the next): mscale(factor, 1).")
      .at_least(0);
  list.add("yarn_mscale_all_dim", c.yarn_mscale_all_dim, "Yarn: denominator of the concentration.").at_least(0);
  list.add("yarn_correction_range_round_to_int", c.yarn_correction_range_round_to_int,
           "Yarn: round the borders of the channel range to whole channels.");
  list.add("no_rope_freq", c.no_rope_freq,
           "Layers without rotation. One number N: every N-th layer; a list with one entry per layer: 1 for layers "
           "without, 0 for layers with.")
      .at_least(0);
}

void add_blocks(FieldList& list, ModelConfig& c) {
  list.add("normalization", c.normalization, "Kind of the norms.").choice(norms());
  list.add("norm_epsilon", c.norm_epsilon, "Added to the variance (or mean square) in norms.").above(0);
  list.add("apply_layernorm_1p", c.apply_layernorm_1p,
           "Norm weights are stored as their difference from one (zero-centred gamma).");
  list.add("qk_layernorm", c.qk_layernorm, "A norm over each head of queries and keys, before rotation.");
  list.add("swiglu", c.swiglu, "Gated MLP with SiLU: short for activation_func: silu and gated_linear_unit: true.");
  list.add("squared_relu", c.squared_relu, "Short for activation_func: squared_relu.");
  list.add("quick_geglu", c.quick_geglu, "Short for activation_func: quick_gelu and gated_linear_unit: true.");
  list.add("openai_gelu", c.openai_gelu, "Short for activation_func: gelu_tanh.");
  list.add("activation_func", c.activation_func,
           "Activation of the MLP; gelu is the exact form with erf, gelu_tanh its approximation, quick_gelu is "
           "x * sigmoid(1.702 x). Not set: what the switches above say, else gelu_tanh.")
      .derived()
      .choice(activations());
  list.add("gated_linear_unit", c.gated_linear_unit,
           "The MLP is activation(gate) * linear. Not set: true with swiglu and quick_geglu.")
      .derived();
  list.add("add_bias_linear", c.add_bias_linear, "Biases in all linear layers.");
  list.add("add_qkv_bias", c.add_qkv_bias, "A bias on the query, key and value projection alone.");
  list.add("untie_embeddings_and_output_weights", c.untie_embeddings_and_output_weights,
           "The output layer has its own weight instead of the embedding's.");
  list.add("hidden_dropout", c.hidden_dropout, "Dropout of the embedding and of each residual branch.")
      .at_least(0)
      .below(1)
      .allowed();
  list.add("attention_dropout", c.attention_dropout, "Dropout of the attention probabilities.")
      .at_least(0)
      .below(1)
      .allowed();
  list.add("softmax_scale", c.softmax_scale, "Factor of the attention scores. Not set: 1 / sqrt(kv_channels).")
      .above(0);
  list.add("window_size", c.window_size,
           "Sliding window [left, right]: a token sees `left` earlier ones and itself; -1 is no limit. Not set: all "
           "earlier tokens.")
      .at_least(-1);
  list.add("window_attn_skip_freq", c.window_attn_skip_freq,
           "Layers with full attention although window_size is set. One number N: every N-th layer; a list with one "
           "entry per layer: 1 for window, 0 for full.")
      .at_least(0);
}

void add_weights(FieldList& list, ModelConfig& c) {
  list.add("init_method_std", c.init_method_std, "Standard deviation of initial weights.").above(0).ignored();
  list.add(
          "embedding_init_method_std", c.embedding_init_method_std,
          "Standard deviation of initial embeddings. Not set: init_method_std. Setting it also takes embeddings out of "
          "weight decay.")
      .above(0);
  list.add("init_method_xavier_uniform", c.init_method_xavier_uniform, "Xavier uniform initial weights.").ignored();
  list.add("make_vocab_size_divisible_by", c.make_vocab_size_divisible_by,
           "The embedding table is padded to a multiple of this and of the tensor-parallel size; padding rows take no "
           "part in loss or sampling.")
      .at_least(1)
      .ignored();
  list.add("vocab_size", c.vocab_size,
           "Number of token ids, where no tokenizer tells (NullTokenizer: with its end-of-document id, the last). "
           "Not set: the tokenizer's.")
      .at_least(2);
  list.add(
      "layers", c.layers,
      "Keys that differ in some layers: a list of maps with `layers` (\"0-3,7\", counted from zero; -1 is the last) "
      "and the keys to set. Later entries win.");
}

}  // namespace

std::vector<Field> fields(ModelConfig& config) {
  FieldList list(OnResume::kRefused);
  add_shape(list, config);
  add_positions(list, config);
  add_blocks(list, config);
  add_weights(list, config);
  return list.take();
}

std::vector<Field> fields(LayerOverride& c) {
  FieldList list(OnResume::kRefused);
  list.add("layers", c.layers, "The layers, counted from zero: a number, \"0-3,7\", \"-1\" for the last, or all.")
      .required();
  list.add("num_attention_heads", c.num_attention_heads, "As model.num_attention_heads.").at_least(1);
  list.add("num_query_groups", c.num_query_groups, "As model.num_query_groups.").at_least(1);
  list.add("kv_channels", c.kv_channels, "As model.kv_channels.").at_least(1);
  list.add("ffn_hidden_size", c.ffn_hidden_size, "As model.ffn_hidden_size.").at_least(1);
  list.add("activation_func", c.activation_func, "As model.activation_func.").choice(activations());
  list.add("gated_linear_unit", c.gated_linear_unit, "As model.gated_linear_unit.");
  list.add("normalization", c.normalization, "As model.normalization.").choice(norms());
  list.add("qk_layernorm", c.qk_layernorm, "As model.qk_layernorm.");
  list.add("position_embedding_type", c.position_embedding_type, "none: these layers do not rotate queries and keys.")
      .choice({"rope", "yarn", "none"});
  list.add("rotary_base", c.rotary_base, "As model.rotary_base.").above(1);
  list.add("window_size", c.window_size, "As model.window_size; [] is full attention.").at_least(-1);
  list.add("softmax_scale", c.softmax_scale, "As model.softmax_scale.").above(0);
  list.add("hidden_dropout", c.hidden_dropout, "As model.hidden_dropout.").at_least(0).below(1);
  list.add("attention_dropout", c.attention_dropout, "As model.attention_dropout.").at_least(0).below(1);
  return list.take();
}

}  // namespace megatron
