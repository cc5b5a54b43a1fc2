// A GGUF file from any model.
#include "base/error.h"
#include "base/file_io.h"
#include "base/log.h"
#include "base/strings.h"
#include "checkpoint/convert.h"
#include "checkpoint/gguf.h"
#include "checkpoint/gguf_tokenizer.h"
#include "checkpoint/huggingface_config.h"
#include "config/layer_config.h"
#include "models/model_spec.h"
#include "models/rope_factors.h"

namespace megatron {
namespace {

constexpr char kPositionTable[] = "position_embd.weight";

[[noreturn]] void refuse(const std::string& what) {
  throw DataError("GGUF has no place for this model: " + what);
}

void add_scaling(std::map<std::string, GgufValue>& keys, const std::string& prefix, const ModelConfig& m) {
  if (m.position_embedding_type == "yarn") {
    if (m.yarn_mscale || !m.yarn_correction_range_round_to_int)
      refuse("yarn with settings that llama.cpp does not have");
    keys[prefix + "rope.scaling.type"] = std::string("yarn");
    keys[prefix + "rope.scaling.factor"] = m.yarn_rotary_scaling_factor;
    keys[prefix + "rope.scaling.original_context_length"] = m.yarn_original_max_position_embeddings;
    keys[prefix + "rope.scaling.yarn_beta_fast"] = m.yarn_beta_fast;
    keys[prefix + "rope.scaling.yarn_beta_slow"] = m.yarn_beta_slow;
  } else if (m.rotary_seq_len_interpolation_factor) {
    keys[prefix + "rope.scaling.type"] = std::string("linear");
    keys[prefix + "rope.scaling.factor"] = *m.rotary_seq_len_interpolation_factor;
  }
}

std::map<std::string, GgufValue> describe(Family family, const ModelConfig& m, int64_t vocab_size) {
  const std::string architecture(family == Family::kMistral ? "llama" : name_of(family)), prefix = architecture + ".";
  std::map<std::string, GgufValue> keys;
  keys["general.architecture"] = architecture;
  keys["general.type"] = std::string("model");
  keys["general.quantization_version"] = int64_t{2};
  keys[prefix + "vocab_size"] = vocab_size;
  keys[prefix + "block_count"] = m.num_layers;
  keys[prefix + "context_length"] = m.max_position_embeddings;
  keys[prefix + "embedding_length"] = m.hidden_size;
  keys[prefix + "feed_forward_length"] = m.ffn_hidden_size;
  keys[prefix + "attention.head_count"] = m.num_attention_heads;
  const char* activation = family == Family::kGpt2 ? "gelu_tanh" : "silu";
  if (m.activation_func != activation) refuse("activation_func is " + m.activation_func);
  if (family == Family::kGpt2) {
    keys[prefix + "attention.layer_norm_epsilon"] = m.norm_epsilon;
    return keys;
  }
  keys[prefix + "attention.head_count_kv"] = m.num_query_groups;
  keys[prefix + "attention.key_length"] = m.kv_channels;
  keys[prefix + "attention.value_length"] = m.kv_channels;
  keys[prefix + "attention.layer_norm_rms_epsilon"] = m.norm_epsilon;
  keys[prefix + "rope.freq_base"] = m.rotary_base;
  keys[prefix + "rope.dimension_count"] = m.kv_channels;
  add_scaling(keys, prefix, m);
  if (m.window_size.empty()) return keys;
  if (family != Family::kMistral) refuse(str_cat("a sliding window in family ", name_of(family)));
  keys[prefix + "attention.sliding_window"] = m.window_size[0] + 1;
  log_warn("some versions of llama.cpp do not use the sliding window of this family beyond it");
  return keys;
}

/// Vectors and the table of positions stay fp32, as llama.cpp has them; so does what is no whole number of blocks.
GgmlType stored_type(const OuterTensor& part, GgmlType wanted) {
  if (part.shape.size() < 2 || part.name == kPositionTable) return GgmlType::kF32;
  return part.shape.back() % block_elements(wanted) == 0 ? wanted : GgmlType::kF32;
}

GgmlType parse_type(const std::string& dtype) {
  if (dtype == "fp32") return GgmlType::kF32;
  if (dtype == "bf16") return GgmlType::kBF16;
  if (dtype == "q8_0") return GgmlType::kQ8_0;
  throw UsageError(str_cat("--dtype: GGUF files are written in fp32, bf16 or q8_0, not ", dtype));
}

struct Plan {
  std::vector<WeightRule> rules;
  std::vector<float> rope;  ///< empty: no tensor of factors
  std::vector<GgufTensor> tensors;
};

Plan make_plan(const ModelSpec& spec, Family family, const ModelConfig& m, GgmlType type) {
  Plan plan;
  plan.rules = weight_rules(family, Naming::kGguf, spec);
  if (m.use_rope_scaling) {
    plan.rope = rope_factors(*spec.layers.front().attention.rope);
    plan.tensors.push_back({"rope_freqs.weight", GgmlType::kF32, {std::ssize(plan.rope)}, 0, 0});
  }
  int64_t exceptions = 0;
  for (const WeightRule& rule : plan.rules) {
    for (const OuterTensor& part : rule.parts) {
      plan.tensors.push_back({part.name, stored_type(part, type), part.shape, 0, 0});
      exceptions += part.shape.size() == 2 && part.name != kPositionTable && plan.tensors.back().type != type;
    }
  }
  if (exceptions > 0) {
    log_warn(str_cat(exceptions, " matrices whose rows are no whole blocks of ", block_elements(type), " stay F32"));
  }
  return plan;
}

void write_tensors(const ModelSource& source, const Plan& plan, GgufWriter& writer) {
  if (!plan.rope.empty()) writer.append(std::as_bytes(std::span(plan.rope)));
  size_t next = plan.rope.empty() ? 0 : 1;
  std::vector<float> parameter, part;
  std::vector<std::byte> blocks;
  for (const WeightRule& rule : plan.rules) {
    parameter.resize(static_cast<size_t>(element_count(rule.shape)));
    source.read_box({rule.name, StateKind::kParameter, DType::kF32, rule.shape}, whole_box(rule.shape),
                    std::as_writable_bytes(std::span(parameter)));
    for (size_t p = 0; p < rule.parts.size(); ++p, ++next) {
      part.resize(static_cast<size_t>(element_count(rule.parts[p].shape)));
      take_apart(rule, DType::kF32, p, std::as_bytes(std::span(parameter)), std::as_writable_bytes(std::span(part)));
      const GgmlType type = plan.tensors[next].type;
      blocks.resize(part.size() / static_cast<size_t>(block_elements(type)) * static_cast<size_t>(block_bytes(type)));
      quantize(type, part, blocks);
      writer.append(blocks);
    }
  }
}

}  // namespace

void detail::write_gguf(const ModelSource& source, const std::string& path, const std::string& dtype) {
  if (path_exists(path)) throw UsageError(str_cat("--to ", path, ": exists already; name a new file"));
  const Config& config = source.config();
  const GgmlType type = parse_type(dtype.empty() ? config.precision.params_dtype : dtype);
  const Family family = source.outer() != nullptr ? source.outer()->family : choose_family(config.model);
  const int64_t ids = config.model.vocab_size ? *config.model.vocab_size : source.tokenizer()->vocab_size();
  std::map<std::string, GgufValue> keys = describe(family, config.model, ids);
  keys["general.file_type"] = int64_t{type == GgmlType::kF32 ? 0 : type == GgmlType::kQ8_0 ? 7 : 32};
  keys.merge(gguf_tokenizer_keys(source.texts(), ids));
  const Plan plan = make_plan(make_model_spec(config, ids), family, config.model, type);
  const std::string staging = path + ".partial";
  remove_tree(staging);
  create_directories(parent_directory(path));
  try {
    GgufWriter writer(staging, keys, plan.tensors);
    write_tensors(source, plan, writer);
    writer.finish();
    if (const int error = FileOps::posix().rename(staging, path); error < 0)
      throw_file_error("rename to", path, -error);
  } catch (...) {
    remove_tree(staging);
    throw;
  }
  sync_directory(parent_directory(path));
  log_info(str_cat("wrote ", path, ": GGUF model of family ", name_of(family), ", ", name_of(type)));
}

}  // namespace megatron
