// Section `model`: the architecture. Plain data; names, meanings, ranges and defaults of the keys are declared once in
// model_fields.cpp and printed by `megatron config explain`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace megatron {

/// One entry of `model.layers`: keys that differ in some layers. A key left out keeps the model's value.
struct LayerOverride {
  std::string layers;  ///< zero-based, e.g. "0-3,7" ("-1" counts from the end)
  std::optional<int64_t> num_attention_heads;
  std::optional<int64_t> num_query_groups;
  std::optional<int64_t> kv_channels;
  std::optional<int64_t> ffn_hidden_size;
  std::optional<std::string> activation_func;
  std::optional<bool> gated_linear_unit;
  std::optional<std::string> normalization;
  std::optional<bool> qk_layernorm;
  std::optional<std::string> position_embedding_type;  ///< "none" switches the rotation off in these layers
  std::optional<double> rotary_base;
  std::optional<std::vector<int64_t>> window_size;  ///< [] means full attention
  std::optional<double> softmax_scale;
  std::optional<double> hidden_dropout;
  std::optional<double> attention_dropout;

  bool operator==(const LayerOverride&) const = default;
};

/// "Derived" members hold the derived value after load_config() or derive_defaults(); the initial value says "not set".
struct ModelConfig {
  std::string family = "gpt";

  int64_t num_layers = 0;
  int64_t hidden_size = 0;
  int64_t ffn_hidden_size = 0;  ///< derived: 4h; gated: int(4h * 2/3 / 64) * 64
  int64_t num_attention_heads = 0;
  int64_t num_query_groups = 0;  ///< derived: num_attention_heads
  int64_t kv_channels = 0;       ///< derived: hidden_size / num_attention_heads
  int64_t seq_length = 0;
  int64_t max_position_embeddings = 0;  ///< derived: seq_length

  std::string position_embedding_type = "learned_absolute";
  double rotary_base = 10000.0;
  double rotary_percent = 1.0;
  bool rotary_interleaved = false;
  std::optional<double> rotary_seq_len_interpolation_factor;
  bool use_rope_scaling = false;
  double rope_scaling_factor = 8.0;
  double yarn_rotary_scaling_factor = 1.0;
  int64_t yarn_original_max_position_embeddings = 0;  ///< required with yarn
  double yarn_beta_fast = 32.0;
  double yarn_beta_slow = 1.0;
  std::optional<double> yarn_mscale;
  std::optional<double> yarn_mscale_all_dim;
  bool yarn_correction_range_round_to_int = true;
  std::vector<int64_t> no_rope_freq;  ///< one number or a pattern; see layer_config.h

  std::string normalization = "LayerNorm";
  double norm_epsilon = 1e-5;
  bool apply_layernorm_1p = false;
  bool qk_layernorm = false;

  // The four switches are Megatron's command line; code reads only the two derived members below them.
  bool swiglu = false;
  bool squared_relu = false;
  bool quick_geglu = false;
  bool openai_gelu = false;
  std::string activation_func;            ///< derived: gelu_tanh | gelu | silu | relu | squared_relu | quick_gelu
  std::optional<bool> gated_linear_unit;  ///< derived, always set after loading

  bool add_bias_linear = true;
  bool add_qkv_bias = false;  ///< derived: true when add_bias_linear
  bool untie_embeddings_and_output_weights = false;

  double hidden_dropout = 0.1;
  double attention_dropout = 0.1;
  std::optional<double> softmax_scale;         ///< not set: 1/sqrt(kv_channels)
  std::vector<int64_t> window_size;            ///< [left, right], -1 unlimited; empty: full attention
  std::vector<int64_t> window_attn_skip_freq;  ///< one number or a pattern; see layer_config.h

  double init_method_std = 0.02;
  std::optional<double> embedding_init_method_std;  ///< not set: init_method_std
  bool init_method_xavier_uniform = false;

  int64_t make_vocab_size_divisible_by = 128;
  std::optional<int64_t> vocab_size;  ///< true number of ids; not set: the tokenizer's

  std::vector<LayerOverride> layers;

  bool operator==(const ModelConfig&) const = default;
};

}  // namespace megatron
