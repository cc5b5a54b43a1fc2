// What one layer of the model looks like, with `model.layers`, window and rotation patterns applied.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/config.h"

namespace megatron {

struct LayerConfig {
  int64_t num_attention_heads = 0;
  int64_t num_query_groups = 0;
  int64_t kv_channels = 0;
  int64_t ffn_hidden_size = 0;
  std::string activation_func;
  bool gated_linear_unit = false;
  std::string normalization;
  bool qk_layernorm = false;
  bool rotary = false;  ///< queries and keys are rotated in this layer (rope or yarn)
  double rotary_base = 10000.0;
  std::vector<int64_t> window_size;  ///< [left, right]; empty: full attention
  double softmax_scale = 0.0;        ///< always set
  double hidden_dropout = 0.0;
  double attention_dropout = 0.0;

  bool operator==(const LayerConfig&) const = default;
};

/// The configuration of layer `layer`, counted from zero. `model` has its derived defaults. Entries of `model.layers`
/// apply in order, later ones win. window_attn_skip_freq (Megatron's meaning, layers counted from one): one number N
/// gives full attention to every N-th layer, a list has 1 for window and 0 for full. no_rope_freq: one number N leaves
/// every N-th layer without rotation, a list has 1 for layers without.
LayerConfig layer_config(const ModelConfig& model, int64_t layer);

/// The layers that `text` ("0-3,7", "-1", "all") names in a model of `num_layers`, sorted, without repeats. Throws
/// UsageError on bad syntax or a layer that doesn't exist.
std::vector<int64_t> parse_layers(const std::string& text, int64_t num_layers);

/// Number of embedding rows: the true vocabulary rounded up to a multiple of
/// make_vocab_size_divisible_by * tensor_model_parallel_size.
int64_t padded_vocab_size(const Config& config, int64_t vocab_size);

/// Pieces of the sequence in which tensor-parallel collectives run beside products (parallel.tp_comm_overlap): 4, 3 or
/// 2, the most that divide seq_length and leave each piece kOverlapLeastRows tokens of the micro-batch or more, a
/// multiple of 128 of them so that pieces are aligned on a GPU; 1 where none does, or without the option.
constexpr int64_t kOverlapLeastRows = 1024;
int64_t tp_overlap_pieces(const Config& config);

}  // namespace megatron
