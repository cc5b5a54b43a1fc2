// Models in GGUF files, as llama.cpp writes and reads them.
#include "checkpoint/gguf.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "base/error.h"
#include "base/strings.h"
#include "checkpoint/gguf_tokenizer.h"
#include "checkpoint/huggingface_config.h"
#include "checkpoint/huggingface_files.h"
#include "checkpoint/outer_model.h"
#include "checkpoint/strict_json.h"
#include "models/model_spec.h"
#include "models/rope_factors.h"

namespace megatron {
namespace {

constexpr int64_t kChunkElements = int64_t{1} << 20;
constexpr char kRopeFactors[] = "rope_freqs.weight";

class GgufTensors : public OuterTensors {
 public:
  GgufTensors(FileReader file, const GgufHeader& header) : file_(std::move(file)) {
    for (const GgufTensor& tensor : header.tensors) {
      entries_[tensor.name] = {std::string(name_of(tensor.type)), tensor.shape, file_.path()};
      tensors_[tensor.name] = tensor;
    }
  }

  void read(const std::string& name, DType dtype, std::span<std::byte> out) const override {
    const GgufTensor& tensor = tensors_.at(name);
    const int64_t elements = block_elements(tensor.type), bytes = block_bytes(tensor.type);
    const int64_t blocks = tensor.bytes / bytes, step = kChunkElements / elements;
    std::vector<std::byte> stored;
    std::vector<float> values;
    for (int64_t first = 0; first < blocks; first += step) {
      const int64_t count = std::min(step, blocks - first);
      stored.resize(static_cast<size_t>(count * bytes));
      values.resize(static_cast<size_t>(count * elements));
      file_.read_at(tensor.offset + first * bytes, stored);
      dequantize(tensor.type, stored, values);
      detail::convert_elements(DType::kF32, reinterpret_cast<const std::byte*>(values.data()), dtype,
                               out.data() + first * elements * size_of(dtype), count * elements);
    }
  }

  bool has(const std::string& name) const { return tensors_.contains(name); }
  const GgufTensor& tensor(const std::string& name) const { return tensors_.at(name); }

 private:
  FileReader file_;
  std::map<std::string, GgufTensor> tensors_;
};

/// Takes "<architecture>.<key>" from the metadata and remembers which.
class Metadata {
 public:
  Metadata(const std::map<std::string, GgufValue>& values, std::string path, std::string architecture)
      : values_(values), path_(std::move(path)), prefix_(std::move(architecture) + ".") {}

  std::string at(const std::string& key) const { return str_cat(path_, ": ", prefix_, key); }

  std::optional<int64_t> integer(const std::string& key, int64_t most) {
    const GgufValue* value = take(key);
    if (value == nullptr) return std::nullopt;
    const auto* number = std::get_if<int64_t>(value);
    if (const auto* list = std::get_if<std::vector<int64_t>>(value)) {  // one for each layer
      const bool equal = !list->empty() && std::count(list->begin(), list->end(), list->front()) == std::ssize(*list);
      if (!equal) fail_at(at(key), "layers that differ are not supported");
      number = list->data();
    }
    if (number == nullptr) fail_at(at(key), "an integer is expected");
    if (*number < 1 || *number > most) fail_at(at(key), str_cat(*number, " is outside of [1, ", most, "]"));
    return *number;
  }
  int64_t required(const std::string& key, int64_t most) {
    const std::optional<int64_t> value = integer(key, most);
    if (!value) fail_at(path_, str_cat("the key '", prefix_, key, "' is missing"));
    return *value;
  }
  std::optional<double> number(const std::string& key) {
    const GgufValue* value = take(key);
    if (value == nullptr) return std::nullopt;
    const auto* number = std::get_if<double>(value);
    if (number == nullptr || !std::isfinite(*number)) fail_at(at(key), "a finite floating-point number is expected");
    // A file has 32 bits of what was written in decimals: the shortest that reads back the same is meant.
    return std::stod(shortest(static_cast<float>(*number)));
  }
  std::string text(const std::string& key, const std::string& absent) {
    const GgufValue* value = take(key);
    if (value == nullptr) return absent;
    const auto* text = std::get_if<std::string>(value);
    if (text == nullptr) fail_at(at(key), "a text is expected");
    return *text;
  }
  std::vector<std::string> left() const {
    std::vector<std::string> keys;
    for (const auto& [key, unused] : values_) {
      if (!taken_.contains(key) && !starts_with(key, "general.") && !starts_with(key, "tokenizer."))
        keys.push_back(key);
    }
    return keys;
  }

 private:
  const GgufValue* take(const std::string& key) {
    taken_.insert(prefix_ + key);
    const auto found = values_.find(prefix_ + key);
    return found == values_.end() ? nullptr : &found->second;
  }
  static std::string shortest(float value) {
    for (int digits = 1; digits < std::numeric_limits<float>::max_digits10; ++digits) {
      std::ostringstream text;
      text.precision(digits);
      text << value;
      if (std::stof(text.str()) == value) return text.str();
    }
    return str_cat(static_cast<double>(value));
  }

  const std::map<std::string, GgufValue>& values_;
  std::string path_, prefix_;
  std::set<std::string> taken_;
};

void read_scaling(Metadata& metadata, ModelConfig& m) {
  const std::string kind = metadata.text("rope.scaling.type", "none");
  const std::optional<double> factor = metadata.number("rope.scaling.factor");
  const std::optional<int64_t> original = metadata.integer("rope.scaling.original_context_length", int64_t{1} << 30);
  if (kind == "linear") {
    m.rotary_seq_len_interpolation_factor = factor.value_or(1.0);
  } else if (kind == "yarn") {
    m.position_embedding_type = "yarn";
    m.yarn_rotary_scaling_factor = factor.value_or(1.0);
    m.yarn_original_max_position_embeddings = original.value_or(m.max_position_embeddings);
    m.yarn_beta_fast = metadata.number("rope.scaling.yarn_beta_fast").value_or(32.0);
    m.yarn_beta_slow = metadata.number("rope.scaling.yarn_beta_slow").value_or(1.0);
  } else if (kind != "none") {
    fail_at(metadata.at("rope.scaling.type"), str_cat("'", kind, "' is not supported; linear, yarn and none are"));
  }
}

/// The factors must be those of LLaMA 3.1: of another rule nothing is known.
void read_rope_factors(const GgufTensors& tensors, const std::string& path, ModelConfig& m) {
  if (!tensors.has(kRopeFactors)) return;
  const std::vector<int64_t>& shape = tensors.tensor(kRopeFactors).shape;
  if (shape.size() != 1 || shape[0] != m.kv_channels / 2) {
    fail_at(path, str_cat(kRopeFactors, " has not one element for each of ", m.kv_channels / 2, " pairs of channels"));
  }
  std::vector<float> factors(static_cast<size_t>(shape[0]));
  tensors.read(kRopeFactors, DType::kF32, std::as_writable_bytes(std::span(factors)));
  m.use_rope_scaling = true;
  m.rope_scaling_factor = static_cast<double>(*std::max_element(factors.begin(), factors.end()));
  RopeSpec spec;
  spec.head_dim = m.kv_channels;
  spec.base = m.rotary_base;
  spec.llama3.on = true;
  spec.llama3.factor = m.rope_scaling_factor;
  const bool possible = m.rope_scaling_factor >= 1 && m.kv_channels % 2 == 0 && m.rotary_base > 1;
  const std::vector<float> expected = possible ? rope_factors(spec) : std::vector<float>(factors.size(), NAN);
  for (size_t i = 0; i < factors.size(); ++i) {
    const float error = std::abs(factors[i] - expected[i]);
    if (!(error <= 1e-4F * expected[i])) {
      fail_at(path, str_cat(kRopeFactors, ": element ", i, " is ", factors[i], ", LLaMA 3.1's rule with factor ",
                            m.rope_scaling_factor, " gives ", expected[i], "; other rules are not supported"));
    }
  }
}

void read_llama_style(Metadata& metadata, const GgufTensors& tensors, const std::string& path, ModelDescription& d) {
  ModelConfig& m = d.model;
  m.normalization = "RMSNorm";
  m.norm_epsilon = metadata.number("attention.layer_norm_rms_epsilon").value_or(1e-5);
  m.activation_func = "silu";
  m.gated_linear_unit = true;
  m.position_embedding_type = "rope";
  m.rotary_base = metadata.number("rope.freq_base").value_or(10000.0);
  const int64_t rotated = metadata.integer("rope.dimension_count", 1 << 16).value_or(m.kv_channels);
  m.rotary_percent = static_cast<double>(rotated) / static_cast<double>(m.kv_channels);
  m.hidden_dropout = 0;
  m.attention_dropout = 0;
  m.add_bias_linear = tensors.has("blk.0.attn_output.bias");
  m.add_qkv_bias = tensors.has("blk.0.attn_q.bias");
  m.qk_layernorm = tensors.has("blk.0.attn_q_norm.weight");
  read_scaling(metadata, m);
  read_rope_factors(tensors, path, m);
  const std::optional<int64_t> window = metadata.integer("attention.sliding_window", int64_t{1} << 30);
  if (!window) return;
  if (d.family != Family::kLlama)
    fail_at(metadata.at("attention.sliding_window"), "is supported in family llama alone");
  d.family = Family::kMistral;
  m.window_size = {*window - 1, 0};
}

ModelDescription read_description(const GgufHeader& header, const GgufTensors& tensors, const std::string& path) {
  const auto found = header.metadata.find("general.architecture");
  const auto* architecture = found == header.metadata.end() ? nullptr : std::get_if<std::string>(&found->second);
  if (architecture == nullptr) fail_at(path, "the key 'general.architecture' is missing");
  const std::optional<Family> family = parse_family(*architecture);
  if (!family || *family == Family::kMistral) {
    fail_at(path,
            str_cat("general.architecture '", *architecture, "' is not supported; gpt2, llama, qwen2, qwen3 are"));
  }
  if (header.metadata.contains("split.count")) {
    const auto* count = std::get_if<int64_t>(&header.metadata.at("split.count"));
    if (count == nullptr || *count > 1)
      fail_at(path, "is one of several parts; join them with llama-gguf-split --merge");
  }
  Metadata metadata(header.metadata, path, *architecture);
  ModelDescription d;
  d.family = *family;
  ModelConfig& m = d.model;
  m.num_layers = metadata.required("block_count", 10'000);
  m.hidden_size = metadata.required("embedding_length", 1 << 20);
  m.ffn_hidden_size = metadata.required("feed_forward_length", 1 << 24);
  m.num_attention_heads = metadata.required("attention.head_count", 1 << 16);
  m.num_query_groups = metadata.integer("attention.head_count_kv", 1 << 16).value_or(m.num_attention_heads);
  m.kv_channels = metadata.integer("attention.key_length", 1 << 16)
                      .value_or(std::max<int64_t>(m.hidden_size / m.num_attention_heads, 1));
  if (metadata.integer("attention.value_length", 1 << 16).value_or(m.kv_channels) != m.kv_channels) {
    fail_at(metadata.at("attention.value_length"), "differs from key_length, which is not supported");
  }
  m.max_position_embeddings = metadata.required("context_length", int64_t{1} << 30);
  m.seq_length = m.max_position_embeddings;
  m.untie_embeddings_and_output_weights = tensors.has("output.weight");
  if (!tensors.has("token_embd.weight")) fail_at(path, "the tensor 'token_embd.weight' is missing");
  m.vocab_size = std::max<int64_t>(tensors.tensor("token_embd.weight").shape.front(), 1);
  metadata.integer("vocab_size", int64_t{1} << 30);  // the table tells
  if (*family == Family::kGpt2) {
    m.norm_epsilon = metadata.number("attention.layer_norm_epsilon").value_or(1e-5);
    m.activation_func = "gelu_tanh";
    m.gated_linear_unit = false;
  } else {
    read_llama_style(metadata, tensors, path, d);
  }
  d.unknown = metadata.left();
  return d;
}

/// The type of the largest tensor; blocks of integers become bf16, which holds them as well as their scales allow.
std::string dtype_of_weights(const GgufHeader& header) {
  const GgufTensor* largest = nullptr;
  int64_t most = -1;
  for (const GgufTensor& tensor : header.tensors) {
    if (element_count(tensor.shape) <= most) continue;
    most = element_count(tensor.shape);
    largest = &tensor;
  }
  if (largest != nullptr && largest->type == GgmlType::kF32) return "fp32";
  return largest != nullptr && largest->type == GgmlType::kF16 ? "fp16" : "bf16";
}

}  // namespace

bool is_gguf_file(const std::string& path) {
  return has_gguf_magic(path);
}

OuterModel open_gguf(const std::string& file) {
  return open_gguf(FileReader(file));
}

OuterModel open_gguf(FileReader file) {
  const std::string path = file.path();
  const GgufHeader header = read_gguf_header(file);
  auto tensors = std::make_shared<GgufTensors>(std::move(file), header);
  const ModelDescription description = read_description(header, *tensors, path);
  OuterModel model;
  model.path = path;
  model.naming = Naming::kGguf;
  model.family = description.family;
  model.unknown = description.unknown;
  model.tensors = tensors;
  model.config = complete_config(description, dtype_of_weights(header), path);
  detail::bind_rules(model, {}, {kRopeFactors});
  model.texts = gguf_tokenizer_files(header.metadata, path);
  set_tokenizer(model.config, model.texts);
  return model;
}

}  // namespace megatron
