#include "config/layer_config.h"

#include <charconv>
#include <cmath>
#include <set>

#include "base/check.h"
#include "base/error.h"
#include "base/strings.h"

namespace megatron {
namespace {

[[noreturn]] void bad_layers(const std::string& text, const std::string& why) {
  throw UsageError(str_cat("layers \"", text, "\": ", why));
}

/// One number such as 3 or -1, made into a layer.
int64_t parse_layer(std::string_view word, const std::string& text, int64_t num_layers) {
  int64_t value = 0;
  const auto result = std::from_chars(word.data(), word.data() + word.size(), value);
  if (word.empty() || result.ec != std::errc() || result.ptr != word.data() + word.size()) {
    bad_layers(text, "write layers as \"0-3,7\", \"-1\" or all");
  }
  const int64_t layer = value < 0 ? value + num_layers : value;
  if (layer < 0 || layer >= num_layers) {
    bad_layers(text, str_cat("there is no layer ", value, "; layers are 0 to ", num_layers - 1));
  }
  return layer;
}

/// True when the pattern marks `layer`: one number N marks every N-th layer (counted from one), a list marks ones.
bool marked(const std::vector<int64_t>& pattern, int64_t layer) {
  if (pattern.size() == 1) return pattern[0] > 0 && (layer + 1) % pattern[0] == 0;
  return pattern[static_cast<size_t>(layer)] == 1;
}

bool has_window(const ModelConfig& model, int64_t layer) {
  const std::vector<int64_t>& pattern = model.window_attn_skip_freq;
  if (pattern.empty()) return true;
  return pattern.size() == 1 ? !marked(pattern, layer) : marked(pattern, layer);
}

template <typename T>
void take(T& out, const std::optional<T>& value) {
  if (value) out = *value;
}

void apply(LayerConfig& out, std::optional<double>& softmax_scale, const LayerOverride& change) {
  take(out.num_attention_heads, change.num_attention_heads);
  take(out.num_query_groups, change.num_query_groups);
  take(out.kv_channels, change.kv_channels);
  take(out.ffn_hidden_size, change.ffn_hidden_size);
  take(out.activation_func, change.activation_func);
  take(out.gated_linear_unit, change.gated_linear_unit);
  take(out.normalization, change.normalization);
  take(out.qk_layernorm, change.qk_layernorm);
  take(out.rotary_base, change.rotary_base);
  take(out.window_size, change.window_size);
  take(out.hidden_dropout, change.hidden_dropout);
  take(out.attention_dropout, change.attention_dropout);
  if (change.position_embedding_type) out.rotary = *change.position_embedding_type != "none";
  if (change.softmax_scale) softmax_scale = change.softmax_scale;
}

}  // namespace

std::vector<int64_t> parse_layers(const std::string& text, int64_t num_layers) {
  std::set<int64_t> layers;
  if (text == "all") {
    for (int64_t i = 0; i < num_layers; ++i) layers.insert(i);
    return {layers.begin(), layers.end()};
  }
  for (const std::string& part : split(text, ',')) {
    const std::string_view word = trim(part);
    const size_t dash = word.find('-', 1);
    const int64_t first = parse_layer(trim(word.substr(0, dash)), text, num_layers);
    const int64_t last =
        dash == std::string_view::npos ? first : parse_layer(trim(word.substr(dash + 1)), text, num_layers);
    if (last < first) bad_layers(text, str_cat("the range ", std::string(word), " runs backwards"));
    for (int64_t i = first; i <= last; ++i) layers.insert(i);
  }
  return {layers.begin(), layers.end()};
}

LayerConfig layer_config(const ModelConfig& model, int64_t layer) {
  MEGATRON_CHECK(layer >= 0 && layer < model.num_layers, str_cat("layer ", layer, " of ", model.num_layers));
  LayerConfig out;
  out.num_attention_heads = model.num_attention_heads;
  out.num_query_groups = model.num_query_groups;
  out.kv_channels = model.kv_channels;
  out.ffn_hidden_size = model.ffn_hidden_size;
  out.activation_func = model.activation_func;
  out.gated_linear_unit = model.gated_linear_unit.value_or(false);
  out.normalization = model.normalization;
  out.qk_layernorm = model.qk_layernorm;
  const bool rotates = model.position_embedding_type == "rope" || model.position_embedding_type == "yarn";
  out.rotary = rotates && (model.no_rope_freq.empty() || !marked(model.no_rope_freq, layer));
  out.rotary_base = model.rotary_base;
  if (has_window(model, layer)) out.window_size = model.window_size;
  out.hidden_dropout = model.hidden_dropout;
  out.attention_dropout = model.attention_dropout;
  std::optional<double> softmax_scale = model.softmax_scale;
  for (const LayerOverride& change : model.layers) {
    for (const int64_t changed : parse_layers(change.layers, model.num_layers)) {
      if (changed == layer) apply(out, softmax_scale, change);
    }
  }
  out.softmax_scale = softmax_scale.value_or(1.0 / std::sqrt(static_cast<double>(out.kv_channels)));
  return out;
}

int64_t tp_overlap_pieces(const Config& config) {
  constexpr int64_t kMultiple = 128;
  if (!config.parallel.tp_comm_overlap) return 1;
  const int64_t length = config.model.seq_length;
  for (int64_t pieces = 4; pieces > 1; --pieces) {
    const int64_t rows = length / pieces * config.training.micro_batch_size;
    if (length % pieces == 0 && rows >= kOverlapLeastRows && rows % kMultiple == 0) return pieces;
  }
  return 1;
}

int64_t padded_vocab_size(const Config& config, int64_t vocab_size) {
  return round_up(vocab_size, config.model.make_vocab_size_divisible_by * config.parallel.tensor_model_parallel_size);
}

}  // namespace megatron
