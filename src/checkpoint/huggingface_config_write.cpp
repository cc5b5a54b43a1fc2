// The other direction: config.json from section `model`.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/strings.h"
#include "checkpoint/huggingface_config.h"
#include "config/layer_config.h"

namespace megatron {

using nlohmann::json;

namespace {

/// Settings that stand in the way of a family, gathered for one message.
class Obstacles {
 public:
  void unless(bool good, const std::string& what) {
    if (!good) found_.push_back(what);
  }
  const std::vector<std::string>& found() const { return found_; }

 private:
  std::vector<std::string> found_;
};

std::vector<std::string> gpt2_obstacles(const ModelConfig& m) {
  Obstacles o;
  o.unless(m.position_embedding_type == "learned_absolute", "position_embedding_type is " + m.position_embedding_type);
  o.unless(m.normalization == "LayerNorm", "normalization is " + m.normalization);
  o.unless(!*m.gated_linear_unit, "gated_linear_unit is true");
  o.unless(m.add_bias_linear, "add_bias_linear is false");
  o.unless(!m.qk_layernorm, "qk_layernorm is true");
  o.unless(m.num_query_groups == m.num_attention_heads, "num_query_groups differs from num_attention_heads");
  o.unless(m.kv_channels * m.num_attention_heads == m.hidden_size, "kv_channels is not hidden_size / heads");
  o.unless(m.window_size.empty(), "window_size is set");
  return o.found();
}

std::vector<std::string> llama_obstacles(const ModelConfig& m) {
  Obstacles o;
  o.unless(m.position_embedding_type == "rope" || m.position_embedding_type == "yarn",
           "position_embedding_type is " + m.position_embedding_type);
  o.unless(m.normalization == "RMSNorm", "normalization is " + m.normalization);
  o.unless(*m.gated_linear_unit, "gated_linear_unit is false");
  o.unless(!m.rotary_interleaved, "rotary_interleaved is true");
  o.unless(m.rotary_percent == 1.0, "rotary_percent is not 1");
  o.unless(m.no_rope_freq.empty(), "no_rope_freq is set");
  o.unless(!m.yarn_mscale || m.yarn_mscale_all_dim, "yarn_mscale stands alone");
  const bool window = !m.window_size.empty();
  o.unless(!window || (m.window_size[0] >= 0 && m.window_size[1] == 0), "window_size is not [n, 0]");
  o.unless(!(m.qk_layernorm && m.add_qkv_bias), "qk_layernorm goes with biases on queries, keys and values");
  o.unless(!(m.qk_layernorm && m.add_bias_linear), "qk_layernorm goes with add_bias_linear");
  o.unless(!(window && m.add_bias_linear), "window_size goes with add_bias_linear");
  return o.found();
}

std::vector<std::string> common_obstacles(const ModelConfig& m) {
  Obstacles o;
  o.unless(m.layers.empty(), "single layers differ (model.layers)");
  const double scale = 1.0 / std::sqrt(static_cast<double>(m.kv_channels));
  o.unless(!m.softmax_scale || std::abs(*m.softmax_scale - scale) < 1e-12 * scale, "softmax_scale is not its default");
  return o.found();
}

std::string activation_name(const std::string& ours) {
  if (ours == "gelu_tanh") return "gelu_new";
  return ours == "squared_relu" ? "relu2" : ours;
}

json rope_scaling(const ModelConfig& m) {
  if (m.use_rope_scaling) {
    return {{"rope_type", "llama3"},
            {"factor", m.rope_scaling_factor},
            {"low_freq_factor", 1.0},
            {"high_freq_factor", 4.0},
            {"original_max_position_embeddings", 8192}};
  }
  if (m.rotary_seq_len_interpolation_factor) {
    return {{"rope_type", "linear"}, {"factor", *m.rotary_seq_len_interpolation_factor}};
  }
  if (m.position_embedding_type != "yarn") return nullptr;
  json yarn = {{"rope_type", "yarn"},
               {"factor", m.yarn_rotary_scaling_factor},
               {"original_max_position_embeddings", m.yarn_original_max_position_embeddings},
               {"beta_fast", m.yarn_beta_fast},
               {"beta_slow", m.yarn_beta_slow},
               {"truncate", m.yarn_correction_range_round_to_int}};
  if (m.yarn_mscale) {
    yarn["mscale"] = *m.yarn_mscale;
    yarn["mscale_all_dim"] = *m.yarn_mscale_all_dim;
  }
  return yarn;
}

/// Whether each layer has a window.
std::vector<bool> windows(const ModelConfig& m) {
  std::vector<bool> result;
  for (int64_t i = 0; i < m.num_layers; ++i) result.push_back(!layer_config(m, i).window_size.empty());
  return result;
}

void add_window(json& out, Family family, const ModelConfig& m) {
  const std::vector<bool> windowed = windows(m);
  const bool any = std::find(windowed.begin(), windowed.end(), true) != windowed.end();
  out["sliding_window"] = any ? json(m.window_size[0] + 1) : json(nullptr);
  if (family == Family::kMistral) return;
  out["use_sliding_window"] = any;
  const auto full = std::find(windowed.begin(), windowed.end(), true) - windowed.begin();
  out["max_window_layers"] = any ? full : m.num_layers;  // older versions know no layer_types
  json types = json::array();
  for (const bool window : windowed) types.push_back(window ? "sliding_attention" : "full_attention");
  out["layer_types"] = types;
}

void add_llama(json& out, Family family, const ModelConfig& m) {
  out["hidden_size"] = m.hidden_size;
  out["intermediate_size"] = m.ffn_hidden_size;
  out["num_hidden_layers"] = m.num_layers;
  out["num_attention_heads"] = m.num_attention_heads;
  out["num_key_value_heads"] = m.num_query_groups;
  out["head_dim"] = m.kv_channels;
  out["max_position_embeddings"] = m.max_position_embeddings;
  out["hidden_act"] = activation_name(m.activation_func);
  out["rms_norm_eps"] = m.norm_epsilon;
  out["rope_theta"] = m.rotary_base;
  out["rope_scaling"] = rope_scaling(m);
  out["tie_word_embeddings"] = !m.untie_embeddings_and_output_weights;
  out["attention_dropout"] = m.attention_dropout;
  if (family == Family::kLlama || family == Family::kQwen3) out["attention_bias"] = m.add_bias_linear;
  if (family == Family::kLlama) out["mlp_bias"] = m.add_bias_linear;
  if (family != Family::kLlama) add_window(out, family, m);
}

void add_gpt2(json& out, const ModelConfig& m) {
  out["n_embd"] = m.hidden_size;
  out["n_inner"] = m.ffn_hidden_size;
  out["n_layer"] = m.num_layers;
  out["n_head"] = m.num_attention_heads;
  out["n_positions"] = m.max_position_embeddings;
  out["n_ctx"] = m.max_position_embeddings;
  out["activation_function"] = activation_name(m.activation_func);
  out["layer_norm_epsilon"] = m.norm_epsilon;
  out["attn_pdrop"] = m.attention_dropout;
  out["resid_pdrop"] = m.hidden_dropout;
  out["embd_pdrop"] = m.hidden_dropout;
  out["tie_word_embeddings"] = !m.untie_embeddings_and_output_weights;
}

const char* architecture(Family family) {
  switch (family) {
    case Family::kGpt2:
      return "GPT2LMHeadModel";
    case Family::kLlama:
      return "LlamaForCausalLM";
    case Family::kMistral:
      return "MistralForCausalLM";
    case Family::kQwen2:
      return "Qwen2ForCausalLM";
    case Family::kQwen3:
      return "Qwen3ForCausalLM";
  }
  return "";
}

}  // namespace

Family choose_family(const ModelConfig& m) {
  std::vector<std::string> common = common_obstacles(m);
  const std::vector<std::string> gpt2 = gpt2_obstacles(m), llama = llama_obstacles(m);
  if (common.empty() && gpt2.empty()) return Family::kGpt2;
  if (!common.empty() || !llama.empty()) {
    const std::string text = common.empty() ? "" : join(common, ", ") + "; ";
    throw DataError(str_cat("no family that other programs know is this model: ", text,
                            "as gpt2: ", gpt2.empty() ? "nothing" : join(gpt2, ", "),
                            "; as llama, mistral or qwen: ", llama.empty() ? "nothing" : join(llama, ", ")));
  }
  const std::vector<bool> windowed = windows(m);
  if (m.qk_layernorm) return Family::kQwen3;
  if (m.add_bias_linear) return Family::kLlama;
  if (m.add_qkv_bias) return Family::kQwen2;
  if (std::find(windowed.begin(), windowed.end(), true) == windowed.end()) return Family::kLlama;
  if (std::find(windowed.begin(), windowed.end(), false) == windowed.end()) return Family::kMistral;
  throw DataError(
      "no family that other programs know is this model: some layers have a window, others not, without "
      "biases on queries, keys and values (qwen2) or norms on them (qwen3)");
}

json write_huggingface_config(Family family, const ModelConfig& model, int64_t vocab_size, const std::string& dtype,
                              std::optional<int64_t> eos_token_id) {
  json out = {{"architectures", {architecture(family)}},
              {"model_type", name_of(family)},
              {"vocab_size", vocab_size},
              {"initializer_range", model.init_method_std},
              {"torch_dtype", dtype == "bf16"   ? "bfloat16"
                              : dtype == "fp16" ? "float16"
                              : dtype == "fp64" ? "float64"
                                                : "float32"},
              {"use_cache", true}};
  out["bos_token_id"] = nullptr;
  out["eos_token_id"] = eos_token_id ? json(*eos_token_id) : json(nullptr);
  if (family == Family::kGpt2) {
    add_gpt2(out, model);
  } else {
    add_llama(out, family, model);
  }
  return out;
}

}  // namespace megatron
