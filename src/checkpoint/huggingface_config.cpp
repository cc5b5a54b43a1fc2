#include "checkpoint/huggingface_config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/strings.h"
#include "checkpoint/strict_json.h"
#include "config/derive.h"
#include "config/layer_config.h"
#include "config/load.h"
#include "config/rules.h"

namespace megatron {

using nlohmann::json;

namespace {

/// Keys that change nothing in what the model computes from ids (or only in training).
const std::set<std::string> kHarmless = {"_name_or_path",
                                         "architectures",
                                         "bos_token_id",
                                         "eos_token_id",
                                         "pad_token_id",
                                         "sep_token_id",
                                         "chunk_size_feed_forward",
                                         "gradient_checkpointing",
                                         "id2label",
                                         "label2id",
                                         "initializer_range",
                                         "is_decoder",
                                         "is_encoder_decoder",
                                         "n_ctx",
                                         "output_attentions",
                                         "output_hidden_states",
                                         "pretraining_tp",
                                         "problem_type",
                                         "resid_pdrop",
                                         "return_dict",
                                         "summary_activation",
                                         "summary_first_dropout",
                                         "summary_proj_to_labels",
                                         "summary_type",
                                         "summary_use_proj",
                                         "task_specific_params",
                                         "tokenizer_class",
                                         "torchscript",
                                         "transformers_version",
                                         "use_bfloat16",
                                         "use_cache",
                                         "reorder_and_upcast_attn",
                                         "_attn_implementation_autoset",
                                         "attn_implementation",
                                         "_attn_implementation",
                                         "embd_pdrop",
                                         "attn_pdrop",
                                         "attention_dropout",
                                         "model_type",
                                         "dtype",
                                         "torch_dtype",
                                         "hidden_dropout",
                                         "finetuning_task",
                                         "prefix",
                                         "tie_encoder_decoder"};

// Products of these stay within 64 bits.
constexpr int64_t kMostLayers = 10'000, kMostHeads = 1 << 16, kWidest = int64_t{1} << 20, kMostIds = int64_t{1} << 30;

/// Takes keys from a config.json and remembers which.
class Keys {
 public:
  Keys(const json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) fail_at(where_, "an object is expected");
  }

  /// The value; null where it is absent or null.
  const json* take(const std::string& key) {
    taken_.insert(key);
    const auto found = object_.find(key);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }
  bool has(const std::string& key) const { return object_.contains(key); }
  std::optional<int64_t> integer(const std::string& key, int64_t most = kWidest, int64_t least = 1) {
    const json* value = take(key);
    if (value == nullptr) return std::nullopt;
    const int64_t number = json_integer(*value, least, at(key));
    if (number > most) fail_at(at(key), str_cat(number, " is more than ", most));
    return number;
  }
  int64_t required(const std::string& key, int64_t most = kWidest) {
    const std::optional<int64_t> value = integer(key, most);
    if (!value) fail_at(where_, str_cat("the key '", key, "' is missing"));
    return *value;
  }
  double number(const std::string& key, double absent) {
    const json* value = take(key);
    if (value == nullptr) return absent;
    if (!value->is_number()) fail_at(at(key), str_cat("a number is expected, not ", value->type_name()));
    if (!std::isfinite(value->get<double>())) fail_at(at(key), "the number is not finite");
    return value->get<double>();
  }
  bool flag(const std::string& key, bool absent) {
    const json* value = take(key);
    if (value == nullptr) return absent;
    if (!value->is_boolean()) fail_at(at(key), str_cat("true or false is expected, not ", value->type_name()));
    return value->get<bool>();
  }
  std::string text(const std::string& key, const std::string& absent) {
    const json* value = take(key);
    return value == nullptr ? absent : json_string(*value, at(key));
  }
  /// DataError unless the key is absent or has this value.
  void must_be(const std::string& key, bool wanted) {
    if (flag(key, wanted) != wanted) fail_at(at(key), str_cat("only ", wanted ? "true" : "false", " is supported"));
  }
  std::vector<std::string> left() const {
    std::vector<std::string> names;
    for (const auto& [key, unused] : object_.items()) {
      if (!taken_.contains(key) && !kHarmless.contains(key)) names.push_back(key);
    }
    return names;
  }
  std::string at(const std::string& key) const { return str_cat(where_, ": ", key); }

 private:
  const json& object_;
  std::string where_;
  std::set<std::string> taken_;
};

std::optional<std::string> read_dtype(Keys& keys) {
  for (const char* key : {"dtype", "torch_dtype"}) {
    const std::string name = keys.text(key, "");
    if (name.empty()) continue;
    if (name == "float32") return "fp32";
    if (name == "bfloat16") return "bf16";
    if (name == "float16") return "fp16";
    if (name == "float64") return "fp64";
    fail_at(keys.at(key), str_cat("'", name, "' is not float32, bfloat16 or float16"));
  }
  return std::nullopt;
}

std::string read_activation(Keys& keys, const std::string& key, const std::string& absent) {
  const std::string name = keys.text(key, absent);
  if (name == "silu" || name == "swish") return "silu";
  if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast") return "gelu_tanh";
  if (name == "gelu" || name == "relu") return name;
  if (name == "relu2") return "squared_relu";
  if (name == "quick_gelu") return "quick_gelu";
  fail_at(keys.at(key), str_cat("activation '", name, "' is not supported"));
}

void read_llama3_rope(Keys& rope, ModelConfig& m) {
  m.use_rope_scaling = true;
  m.rope_scaling_factor = rope.number("factor", 8.0);
  const auto only = [&](const char* key, double value) {
    const double given = rope.number(key, value);
    if (given != value) fail_at(rope.at(key), str_cat(given, " is not supported, only ", value));
  };
  only("low_freq_factor", 1.0);
  only("high_freq_factor", 4.0);
  only("original_max_position_embeddings", 8192.0);
}

void read_yarn(Keys& rope, ModelConfig& m) {
  m.position_embedding_type = "yarn";
  m.yarn_rotary_scaling_factor = rope.number("factor", 1.0);
  m.yarn_original_max_position_embeddings =
      rope.integer("original_max_position_embeddings").value_or(m.max_position_embeddings);
  m.yarn_beta_fast = rope.number("beta_fast", 32.0);
  m.yarn_beta_slow = rope.number("beta_slow", 1.0);
  m.yarn_correction_range_round_to_int = rope.flag("truncate", true);
  const double mscale = rope.number("mscale", 0.0), all_dim = rope.number("mscale_all_dim", 0.0);
  if (mscale > 0 && all_dim > 0) {
    m.yarn_mscale = mscale;
    m.yarn_mscale_all_dim = all_dim;
  }
  const double expected = m.yarn_rotary_scaling_factor <= 1 ? 1.0 : 0.1 * std::log(m.yarn_rotary_scaling_factor) + 1.0;
  const double attention = rope.number("attention_factor", expected);
  if (std::abs(attention - expected) > 1e-12 * expected) {
    fail_at(rope.at("attention_factor"), str_cat(attention, " is not supported, only 0.1 ln(factor) + 1 = ", expected));
  }
}

/// rope_theta and rope_scaling, or rope_parameters, which holds both since transformers 5.
void read_rope(Keys& keys, const std::string& where, ModelConfig& m, std::vector<std::string>& unknown) {
  m.position_embedding_type = "rope";
  m.rotary_base = keys.number("rope_theta", 10000.0);
  m.rotary_percent = keys.number("partial_rotary_factor", 1.0);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const json* value = keys.take(key);
    if (value == nullptr) continue;
    Keys rope(*value, str_cat(where, ": ", key));
    m.rotary_base = rope.number("rope_theta", m.rotary_base);
    m.rotary_percent = rope.number("partial_rotary_factor", m.rotary_percent);
    const std::string older = rope.text("type", "default"), kind = rope.text("rope_type", older);
    if (kind == "llama3") {
      read_llama3_rope(rope, m);
    } else if (kind == "linear") {
      m.rotary_seq_len_interpolation_factor = rope.number("factor", 1.0);
    } else if (kind == "yarn") {
      read_yarn(rope, m);
    } else if (kind != "default") {
      fail_at(rope.at("rope_type"), str_cat("'", kind, "' is not supported; llama3, linear, yarn and default are"));
    }
    for (const std::string& left : rope.left()) unknown.push_back(str_cat(key, ".", left));
  }
}

/// sliding_window with layer_types (Qwen), or with max_window_layers before those came; Mistral's is in all layers.
void read_window(Keys& keys, Family family, ModelConfig& m) {
  const bool qwen = family == Family::kQwen2 || family == Family::kQwen3;
  const bool on = keys.flag("use_sliding_window", !qwen);
  std::optional<int64_t> size = keys.integer("sliding_window", kMostIds);
  if (family == Family::kMistral && !keys.has("sliding_window")) size = 4096;  // null means none
  const int64_t full = keys.integer("max_window_layers", kMostLayers, 0).value_or(qwen ? 28 : 0);
  const json* types = keys.take("layer_types");
  std::vector<int64_t> windows(static_cast<size_t>(m.num_layers), size && on ? 1 : 0);
  for (size_t i = 0; i < windows.size() && std::cmp_less(i, full); ++i) windows[i] = 0;
  if (types != nullptr) {
    if (!types->is_array() || types->size() != windows.size()) {
      fail_at(keys.at("layer_types"),
              str_cat("a list with one entry for each of ", windows.size(), " layers is expected"));
    }
    for (size_t i = 0; i < windows.size(); ++i) {
      const std::string type = json_string((*types)[i], keys.at("layer_types"));
      if (type != "full_attention" && type != "sliding_attention") {
        fail_at(keys.at("layer_types"), str_cat("'", type, "' is not supported"));
      }
      windows[i] = type == "sliding_attention" ? 1 : 0;
    }
  }
  const auto in_window = std::count(windows.begin(), windows.end(), 1);
  if (in_window == 0) return;
  if (!size) fail_at(keys.at("sliding_window"), "layers with sliding attention need it");
  m.window_size = {*size - 1, 0};  // theirs counts the token itself
  if (in_window < m.num_layers) m.window_attn_skip_freq = windows;
}

void read_llama(Keys& keys, const std::string& where, ModelDescription& d) {
  ModelConfig& m = d.model;
  m.num_layers = keys.required("num_hidden_layers", kMostLayers);
  m.hidden_size = keys.required("hidden_size");
  m.ffn_hidden_size = keys.required("intermediate_size", 16 * kWidest);
  m.num_attention_heads = keys.required("num_attention_heads", kMostHeads);
  m.num_query_groups = keys.integer("num_key_value_heads", kMostHeads).value_or(m.num_attention_heads);
  m.kv_channels =
      keys.integer("head_dim", kMostHeads)
          .value_or(d.family == Family::kQwen3 ? 128 : m.hidden_size / std::max<int64_t>(m.num_attention_heads, 1));
  m.vocab_size = keys.required("vocab_size", kMostIds);
  const int64_t longest = d.family == Family::kLlama ? 2048 : d.family == Family::kMistral ? 131072 : 32768;
  m.max_position_embeddings = keys.integer("max_position_embeddings", kMostIds).value_or(longest);
  m.normalization = "RMSNorm";
  m.norm_epsilon = keys.number("rms_norm_eps", 1e-6);
  m.activation_func = read_activation(keys, "hidden_act", "silu");
  m.gated_linear_unit = true;
  m.untie_embeddings_and_output_weights = !keys.flag("tie_word_embeddings", false);
  m.hidden_dropout = 0.0;
  keys.must_be("use_mrope", false);
  const bool attention_bias = keys.flag("attention_bias", false), mlp_bias = keys.flag("mlp_bias", false);
  if (attention_bias != mlp_bias) {
    fail_at(keys.at("attention_bias"), "biases in attention and MLP are supported together or not at all");
  }
  m.add_bias_linear = attention_bias;
  m.add_qkv_bias = attention_bias || d.family == Family::kQwen2;
  m.qk_layernorm = d.family == Family::kQwen3;
  read_rope(keys, where, m, d.unknown);
  if (d.family != Family::kLlama) read_window(keys, d.family, m);
}

void read_gpt2(Keys& keys, ModelDescription& d) {
  ModelConfig& m = d.model;
  m.num_layers = keys.required("n_layer", kMostLayers);
  m.hidden_size = keys.required("n_embd");
  m.num_attention_heads = keys.required("n_head", kMostHeads);
  m.ffn_hidden_size = keys.integer("n_inner", 16 * kWidest).value_or(4 * m.hidden_size);
  m.vocab_size = keys.required("vocab_size", kMostIds);
  m.max_position_embeddings = keys.required("n_positions", kMostIds);
  m.norm_epsilon = keys.number("layer_norm_epsilon", 1e-5);
  m.activation_func = read_activation(keys, "activation_function", "gelu_new");
  m.gated_linear_unit = false;
  m.hidden_dropout = keys.number("resid_pdrop", 0.1);
  m.untie_embeddings_and_output_weights = !keys.flag("tie_word_embeddings", true);
  keys.must_be("scale_attn_weights", true);
  keys.must_be("scale_attn_by_inverse_layer_idx", false);
  keys.must_be("add_cross_attention", false);
}

}  // namespace

ModelDescription read_huggingface_config(const json& object, const std::string& where) {
  Keys keys(object, where);
  ModelDescription d;
  const std::string type = keys.text("model_type", "");
  const std::optional<Family> family = parse_family(type);
  if (!family) {
    std::vector<std::string> names;
    for (Family known : kAllFamilies) names.emplace_back(name_of(known));
    fail_at(keys.at("model_type"), str_cat("'", type, "' is not supported; ", join(names, ", "), " are"));
  }
  d.family = *family;
  if (keys.take("quantization_config") != nullptr) {
    fail_at(keys.at("quantization_config"), "quantised weights are not supported; use the original model");
  }
  d.model.attention_dropout =
      keys.number(*family == Family::kGpt2 ? "attn_pdrop" : "attention_dropout", *family == Family::kGpt2 ? 0.1 : 0.0);
  d.model.init_method_std = keys.number("initializer_range", 0.02);
  d.dtype = read_dtype(keys);
  if (*family == Family::kGpt2) {
    read_gpt2(keys, d);
  } else {
    read_llama(keys, where, d);
  }
  d.model.seq_length = d.model.max_position_embeddings;
  for (const std::string& key : keys.left()) d.unknown.push_back(key);
  return d;
}

Config complete_config(const ModelDescription& description, const std::string& dtype, const std::string& where) {
  Config config;
  config.model = description.model;
  config.precision.params_dtype = dtype;
  // What the sections of a run need; a run brings its own.
  config.data.mock_data = true;
  config.data.tokenizer_type = "NullTokenizer";
  config.training.micro_batch_size = 1;
  config.training.train_iters = 1;
  config.optimizer.lr = 1e-5;
  try {
    derive_defaults(config);
    validate(config);
  } catch (const UsageError& error) {
    throw DataError(str_cat(where, ": the model is not possible: ", error.what()));
  }
  return config;
}

std::vector<std::string> model_differences(const ModelConfig& a, const ModelConfig& b) {
  static const std::set<std::string> kOther = {
      "model.seq_length",  "model.vocab_size", "model.embedding_init_method_std", "model.swiglu", "model.squared_relu",
      "model.quick_geglu", "model.openai_gelu"};
  Config left, right;
  left.model = a;
  right.model = b;
  const bool tables =
      a.position_embedding_type == "learned_absolute" || a.position_embedding_type != b.position_embedding_type;
  std::vector<std::string> lines;
  for (const ConfigChange& change : resume_diff(left, right)) {
    if (change.kind != ChangeKind::kRefused || !starts_with(change.key, "model.") || kOther.contains(change.key))
      continue;
    if (change.key == "model.max_position_embeddings" && !tables) continue;
    lines.push_back(str_cat(change.key.substr(6), ": ", change.saved, " and ", change.now));
  }
  return lines;
}

}  // namespace megatron
