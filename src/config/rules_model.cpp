// Rules about the architecture, and about single layers.
#include <cmath>

#include "base/error.h"
#include "base/strings.h"
#include "config/layer_config.h"
#include "config/rules.h"

namespace megatron::detail {
namespace {

using Answer = std::optional<std::string>;

bool rotates(const ModelConfig& m) {
  return m.position_embedding_type == "rope" || m.position_embedding_type == "yarn";
}

Answer head_width(const RuleContext& c) {
  const ModelConfig& m = c.config.model;
  if (c.derived.count("model.kv_channels") == 0 || m.hidden_size % m.num_attention_heads == 0) return {};
  return str_cat("hidden_size ", m.hidden_size, " is not divisible by num_attention_heads ", m.num_attention_heads,
                 "; set kv_channels or change one of them");
}

Answer more_heads_than_channels(const RuleContext& c) {
  const ModelConfig& m = c.config.model;
  if (m.num_attention_heads <= m.hidden_size || m.kv_channels > 0) return {};
  return str_cat("num_attention_heads ", m.num_attention_heads, " exceeds hidden_size ", m.hidden_size,
                 "; set kv_channels or change one of them");
}

Answer query_groups(const RuleContext& c) {
  const ModelConfig& m = c.config.model;
  if (m.num_attention_heads % m.num_query_groups == 0) return {};
  return str_cat("num_query_groups ", m.num_query_groups, " does not divide num_attention_heads ",
                 m.num_attention_heads);
}

Answer positions_fit(const RuleContext& c) {
  const ModelConfig& m = c.config.model;
  if (m.max_position_embeddings >= m.seq_length) return {};
  return str_cat("max_position_embeddings ", m.max_position_embeddings, " is below seq_length ", m.seq_length);
}

Answer rotated_channels(const RuleContext& c) {
  const ModelConfig& m = c.config.model;
  if (!rotates(m)) return {};
  const auto channels = static_cast<int64_t>(static_cast<double>(m.kv_channels) * m.rotary_percent);
  if (channels >= 2 && channels % 2 == 0) return {};
  return str_cat("rotary_percent ", m.rotary_percent, " of ", m.kv_channels, " channels gives ", channels,
                 " rotated channels; the number must be even and at least 2");
}

Answer rope_only(const RuleContext& c) {
  const ModelConfig& m = c.config.model;
  if (m.position_embedding_type == "rope") return {};
  if (m.use_rope_scaling) return "use_rope_scaling needs position_embedding_type: rope";
  if (m.rotary_seq_len_interpolation_factor) {
    return "rotary_seq_len_interpolation_factor needs position_embedding_type: rope";
  }
  return {};
}

Answer rotation_only(const RuleContext& c) {
  const ModelConfig& m = c.config.model;
  if (rotates(m)) return {};
  if (m.rotary_interleaved) return "rotary_interleaved needs position_embedding_type: rope";
  if (!m.no_rope_freq.empty()) return "no_rope_freq needs position_embedding_type: rope or yarn";
  return {};
}

Answer two_stretchings(const RuleContext& c) {
  const ModelConfig& m = c.config.model;
  if (!m.use_rope_scaling || !m.rotary_seq_len_interpolation_factor) return {};
  return "use_rope_scaling and rotary_seq_len_interpolation_factor both stretch the positions; keep one";
}

Answer yarn_settings(const RuleContext& c) {
  const ModelConfig& m = c.config.model;
  if (m.position_embedding_type != "yarn") return {};
  if (m.rotary_interleaved) return "yarn rotates halves; leave rotary_interleaved out";
  if (m.yarn_original_max_position_embeddings == 0) return "yarn needs yarn_original_max_position_embeddings";
  if (m.yarn_beta_fast <= m.yarn_beta_slow) return "yarn_beta_fast must be above yarn_beta_slow";
  return {};
}

Answer check_window(const std::vector<int64_t>& window) {
  if (window.empty()) return {};
  if (window.size() != 2) return "window_size is a pair [left, right], such as [127, 0]";
  if (window[1] > 0) return str_cat("window_size looks ", window[1], " tokens ahead; the model is causal: right is 0");
  return {};
}

Answer window(const RuleContext& c) {
  return check_window(c.config.model.window_size);
}

Answer window_pattern_alone(const RuleContext& c) {
  const ModelConfig& m = c.config.model;
  if (m.window_attn_skip_freq.empty() || !m.window_size.empty()) return {};
  return "window_attn_skip_freq needs window_size";
}

Answer check_pattern(const std::vector<int64_t>& pattern, const std::string& name, int64_t num_layers) {
  if (pattern.empty()) return {};
  if (pattern.size() == 1) {
    if (pattern[0] > 0) return {};
    return name + " as one number is a frequency: at least 1";
  }
  if (static_cast<int64_t>(pattern.size()) != num_layers) {
    return str_cat(name, " has ", pattern.size(), " entries for ", num_layers, " layers");
  }
  for (const int64_t entry : pattern) {
    if (entry != 0 && entry != 1) return str_cat(name, " has entry ", entry, "; a list has 0 and 1 only");
  }
  return {};
}

Answer window_pattern(const RuleContext& c) {
  return check_pattern(c.config.model.window_attn_skip_freq, "window_attn_skip_freq", c.config.model.num_layers);
}

Answer rope_pattern(const RuleContext& c) {
  return check_pattern(c.config.model.no_rope_freq, "no_rope_freq", c.config.model.num_layers);
}

Answer one_activation_switch(const RuleContext& c) {
  const ModelConfig& m = c.config.model;
  std::vector<std::string> on;
  if (m.swiglu) on.push_back("swiglu");
  if (m.squared_relu) on.push_back("squared_relu");
  if (m.quick_geglu) on.push_back("quick_geglu");
  if (m.openai_gelu) on.push_back("openai_gelu");
  if (on.size() < 2) return {};
  return str_cat(join(on, " and "), " exclude each other");
}

Answer activation_agrees(const RuleContext& c) {
  const ModelConfig& m = c.config.model;
  const auto clash = [&](bool on, const char* name, const char* function, bool gated) -> Answer {
    if (!on || (m.activation_func == function && m.gated_linear_unit == gated)) return {};
    return str_cat(name, " means activation_func: ", function, " and gated_linear_unit: ", gated ? "true" : "false",
                   "; leave one of them out");
  };
  if (Answer answer = clash(m.swiglu, "swiglu", "silu", true)) return answer;
  if (Answer answer = clash(m.squared_relu, "squared_relu", "squared_relu", false)) return answer;
  if (Answer answer = clash(m.quick_geglu, "quick_geglu", "quick_gelu", true)) return answer;
  return clash(m.openai_gelu, "openai_gelu", "gelu_tanh", false);
}

Answer two_inits(const RuleContext& c) {
  const ModelConfig& m = c.config.model;
  if (!m.init_method_xavier_uniform || m.init_method_std == ModelConfig{}.init_method_std) return {};
  return "init_method_xavier_uniform leaves no use for init_method_std; keep one";
}

Answer override_layers_exist(const RuleContext& c) {
  for (const LayerOverride& change : c.config.model.layers) {
    try {
      parse_layers(change.layers, c.config.model.num_layers);
    } catch (const UsageError& error) {
      return error.what();
    }
  }
  return {};
}

Answer override_rotation(const RuleContext& c) {
  const ModelConfig& m = c.config.model;
  for (const LayerOverride& change : m.layers) {
    if (change.position_embedding_type && *change.position_embedding_type != "none" &&
        *change.position_embedding_type != m.position_embedding_type) {
      return str_cat("layers \"", change.layers, "\": position_embedding_type ", *change.position_embedding_type,
                     " differs from the model's ", m.position_embedding_type,
                     "; a layer can only switch it off (none)");
    }
    if (change.rotary_base && !rotates(m)) {
      return str_cat("layers \"", change.layers, "\": rotary_base needs position_embedding_type: rope or yarn");
    }
  }
  return {};
}

/// What must hold within one layer once its overrides apply.
Answer override_combination(const RuleContext& c) {
  const ModelConfig& m = c.config.model;
  if (m.layers.empty() || override_layers_exist(c) || window_pattern(c) || rope_pattern(c)) return {};
  for (int64_t i = 0; i < m.num_layers; ++i) {
    const LayerConfig layer = layer_config(m, i);
    Answer problem = check_window(layer.window_size);
    if (!problem && layer.num_attention_heads % layer.num_query_groups != 0) {
      problem = str_cat("num_query_groups ", layer.num_query_groups, " does not divide num_attention_heads ",
                        layer.num_attention_heads);
    }
    const auto channels = static_cast<int64_t>(static_cast<double>(layer.kv_channels) * m.rotary_percent);
    if (!problem && layer.rotary && (channels < 2 || channels % 2 != 0)) {
      problem = str_cat(channels, " rotated channels; the number must be even and at least 2");
    }
    if (problem) return str_cat("layer ", i, ": ", *problem);
  }
  return {};
}

}  // namespace

void add_model_rules(std::vector<Rule>& table) {
  table.insert(
      table.end(),
      {{"head-width", {"model.num_attention_heads", "model.hidden_size"}, head_width},
       {"more-heads-than-channels", {"model.num_attention_heads", "model.hidden_size"}, more_heads_than_channels},
       {"query-groups", {"model.num_query_groups", "model.num_attention_heads"}, query_groups},
       {"positions-fit", {"model.max_position_embeddings", "model.seq_length"}, positions_fit},
       {"rotated-channels",
        {"model.rotary_percent", "model.kv_channels", "model.position_embedding_type"},
        rotated_channels},
       {"rope-only",
        {"model.use_rope_scaling", "model.rotary_seq_len_interpolation_factor", "model.position_embedding_type"},
        rope_only},
       {"rotation-only",
        {"model.rotary_interleaved", "model.no_rope_freq", "model.position_embedding_type"},
        rotation_only},
       {"two-stretchings", {"model.use_rope_scaling", "model.rotary_seq_len_interpolation_factor"}, two_stretchings},
       {"yarn-settings",
        {"model.position_embedding_type", "model.yarn_original_max_position_embeddings", "model.rotary_interleaved",
         "model.yarn_beta_fast", "model.yarn_beta_slow"},
        yarn_settings},
       {"window", {"model.window_size"}, window},
       {"window-pattern-alone", {"model.window_attn_skip_freq", "model.window_size"}, window_pattern_alone},
       {"window-pattern", {"model.window_attn_skip_freq", "model.num_layers"}, window_pattern},
       {"rope-pattern", {"model.no_rope_freq", "model.num_layers"}, rope_pattern},
       {"one-activation-switch",
        {"model.swiglu", "model.squared_relu", "model.quick_geglu", "model.openai_gelu"},
        one_activation_switch},
       {"activation-agrees",
        {"model.activation_func", "model.gated_linear_unit", "model.swiglu", "model.squared_relu", "model.quick_geglu",
         "model.openai_gelu"},
        activation_agrees},
       {"two-inits", {"model.init_method_xavier_uniform", "model.init_method_std"}, two_inits}});
}

void add_layer_rules(std::vector<Rule>& table) {
  table.insert(table.end(), {{"layers-exist", {"model.layers", "model.num_layers"}, override_layers_exist},
                             {"layers-rotation", {"model.layers", "model.position_embedding_type"}, override_rotation},
                             {"layers-combination",
                              {"model.layers", "model.num_layers", "model.kv_channels", "model.num_attention_heads"},
                              override_combination}});
}

}  // namespace megatron::detail
