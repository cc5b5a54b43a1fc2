#include "models/weight_rules.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/strings.h"

namespace megatron {
namespace {

/// What a parameter is; decides shape, order of rows, and whether a model has it.
enum class Role : uint8_t {
  kWords,
  kPositions,
  kOutput,
  kNorm,
  kNormBias,
  kFinalNorm,
  kFinalNormBias,
  kHeadNorm,
  kQkv,
  kQkvBias,
  kProj,
  kProjBias,
  kFc1,
  kFc1Bias,
  kFc2,
  kFc2Bias,
};

/// One row of a family's table; "{}" is the number of the layer.
struct Names {
  Role role;
  const char* ours;
  std::vector<const char*> huggingface, gguf;
};

/// GPT-2: projections are Conv1D, [in, out], with q, k and v in one tensor.
std::vector<Names> gpt2_names() {
  return {
      {Role::kWords, "embedding.word_embeddings.weight", {"transformer.wte.weight"}, {"token_embd.weight"}},
      {Role::kPositions, "embedding.position_embeddings.weight", {"transformer.wpe.weight"}, {"position_embd.weight"}},
      {Role::kNorm, "input_layernorm.weight", {"transformer.h.{}.ln_1.weight"}, {"blk.{}.attn_norm.weight"}},
      {Role::kNormBias, "input_layernorm.bias", {"transformer.h.{}.ln_1.bias"}, {"blk.{}.attn_norm.bias"}},
      {Role::kQkv,
       "self_attention.linear_qkv.weight",
       {"transformer.h.{}.attn.c_attn.weight"},
       {"blk.{}.attn_qkv.weight"}},
      {Role::kQkvBias,
       "self_attention.linear_qkv.bias",
       {"transformer.h.{}.attn.c_attn.bias"},
       {"blk.{}.attn_qkv.bias"}},
      {Role::kProj,
       "self_attention.linear_proj.weight",
       {"transformer.h.{}.attn.c_proj.weight"},
       {"blk.{}.attn_output.weight"}},
      {Role::kProjBias,
       "self_attention.linear_proj.bias",
       {"transformer.h.{}.attn.c_proj.bias"},
       {"blk.{}.attn_output.bias"}},
      {Role::kNorm, "pre_mlp_layernorm.weight", {"transformer.h.{}.ln_2.weight"}, {"blk.{}.ffn_norm.weight"}},
      {Role::kNormBias, "pre_mlp_layernorm.bias", {"transformer.h.{}.ln_2.bias"}, {"blk.{}.ffn_norm.bias"}},
      {Role::kFc1, "mlp.linear_fc1.weight", {"transformer.h.{}.mlp.c_fc.weight"}, {"blk.{}.ffn_up.weight"}},
      {Role::kFc1Bias, "mlp.linear_fc1.bias", {"transformer.h.{}.mlp.c_fc.bias"}, {"blk.{}.ffn_up.bias"}},
      {Role::kFc2, "mlp.linear_fc2.weight", {"transformer.h.{}.mlp.c_proj.weight"}, {"blk.{}.ffn_down.weight"}},
      {Role::kFc2Bias, "mlp.linear_fc2.bias", {"transformer.h.{}.mlp.c_proj.bias"}, {"blk.{}.ffn_down.bias"}},
      {Role::kFinalNorm, "decoder.final_layernorm.weight", {"transformer.ln_f.weight"}, {"output_norm.weight"}},
      {Role::kFinalNormBias, "decoder.final_layernorm.bias", {"transformer.ln_f.bias"}, {"output_norm.bias"}},
      {Role::kOutput, "output_layer.weight", {"lm_head.weight"}, {"output.weight"}},
  };
}

/// LLaMA, and with it Mistral, Qwen 2 (biases on q, k, v) and Qwen 3 (norms on q, k).
std::vector<Names> llama_names() {
#define HF_LAYER "model.layers.{}."
  return {
      {Role::kWords, "embedding.word_embeddings.weight", {"model.embed_tokens.weight"}, {"token_embd.weight"}},
      {Role::kNorm, "input_layernorm.weight", {HF_LAYER "input_layernorm.weight"}, {"blk.{}.attn_norm.weight"}},
      {Role::kQkv,
       "self_attention.linear_qkv.weight",
       {HF_LAYER "self_attn.q_proj.weight", HF_LAYER "self_attn.k_proj.weight", HF_LAYER "self_attn.v_proj.weight"},
       {"blk.{}.attn_q.weight", "blk.{}.attn_k.weight", "blk.{}.attn_v.weight"}},
      {Role::kQkvBias,
       "self_attention.linear_qkv.bias",
       {HF_LAYER "self_attn.q_proj.bias", HF_LAYER "self_attn.k_proj.bias", HF_LAYER "self_attn.v_proj.bias"},
       {"blk.{}.attn_q.bias", "blk.{}.attn_k.bias", "blk.{}.attn_v.bias"}},
      {Role::kHeadNorm,
       "self_attention.q_layernorm.weight",
       {HF_LAYER "self_attn.q_norm.weight"},
       {"blk.{}.attn_q_norm.weight"}},
      {Role::kHeadNorm,
       "self_attention.k_layernorm.weight",
       {HF_LAYER "self_attn.k_norm.weight"},
       {"blk.{}.attn_k_norm.weight"}},
      {Role::kProj,
       "self_attention.linear_proj.weight",
       {HF_LAYER "self_attn.o_proj.weight"},
       {"blk.{}.attn_output.weight"}},
      {Role::kProjBias,
       "self_attention.linear_proj.bias",
       {HF_LAYER "self_attn.o_proj.bias"},
       {"blk.{}.attn_output.bias"}},
      {Role::kNorm,
       "pre_mlp_layernorm.weight",
       {HF_LAYER "post_attention_layernorm.weight"},
       {"blk.{}.ffn_norm.weight"}},
      {Role::kFc1,
       "mlp.linear_fc1.weight",
       {HF_LAYER "mlp.gate_proj.weight", HF_LAYER "mlp.up_proj.weight"},
       {"blk.{}.ffn_gate.weight", "blk.{}.ffn_up.weight"}},
      {Role::kFc1Bias,
       "mlp.linear_fc1.bias",
       {HF_LAYER "mlp.gate_proj.bias", HF_LAYER "mlp.up_proj.bias"},
       {"blk.{}.ffn_gate.bias", "blk.{}.ffn_up.bias"}},
      {Role::kFc2, "mlp.linear_fc2.weight", {HF_LAYER "mlp.down_proj.weight"}, {"blk.{}.ffn_down.weight"}},
      {Role::kFc2Bias, "mlp.linear_fc2.bias", {HF_LAYER "mlp.down_proj.bias"}, {"blk.{}.ffn_down.bias"}},
      {Role::kFinalNorm, "decoder.final_layernorm.weight", {"model.norm.weight"}, {"output_norm.weight"}},
      {Role::kOutput, "output_layer.weight", {"lm_head.weight"}, {"output.weight"}},
  };
#undef HF_LAYER
}

std::string numbered(std::string name, size_t layer) {
  const size_t place = name.find("{}");
  if (place != std::string::npos) name.replace(place, 2, std::to_string(layer));
  return name;
}

/// Makes the rules of one model.
class RuleMaker {
 public:
  RuleMaker(Family family, Naming naming, const ModelSpec& spec) : family_(family), naming_(naming), spec_(spec) {}

  std::vector<WeightRule> make() {
    const std::vector<Names> names = family_ == Family::kGpt2 ? gpt2_names() : llama_names();
    const auto in_layer = [](const Names& n) { return n.role >= Role::kNorm && !is_final(n.role); };
    size_t i = 0;
    for (; i < names.size() && !in_layer(names[i]); ++i) add(names[i], 0);
    const size_t first = i;
    while (i < names.size() && in_layer(names[i])) ++i;
    for (size_t layer = 0; layer < spec_.layers.size(); ++layer) {
      for (size_t j = first; j < i; ++j) add(names[j], layer);
      check_layer(layer);
    }
    for (; i < names.size(); ++i) add(names[i], 0);
    return std::move(rules_);
  }

 private:
  static bool is_final(Role role) { return role == Role::kFinalNorm || role == Role::kFinalNormBias; }

  [[noreturn]] void refuse(const std::string& what) const {
    throw DataError(str_cat("family ", name_of(family_), " has no place for ", what));
  }

  /// What a layer has and the family's table does not.
  void check_layer(size_t i) const {
    const LayerSpec& layer = spec_.layers[i];
    const bool gpt2 = family_ == Family::kGpt2;
    if (layer.mlp.gated == gpt2) refuse(gpt2 ? "a gated MLP" : "an MLP without a gate");
    if ((layer.norm.kind == NormSpec::Kind::kLayerNorm) != gpt2) refuse(gpt2 ? "RMSNorm" : "LayerNorm");
    if (spec_.learned_positions != gpt2) refuse(gpt2 ? "a model without learned positions" : "learned positions");
    if (gpt2 && layer.attention.qk_norm) refuse("norms of queries and keys");
    if (gpt2 && layer.attention.groups != layer.attention.heads) refuse("grouped queries");
  }

  bool has(Role role, const LayerSpec& layer) const {
    switch (role) {
      case Role::kPositions:
        return spec_.learned_positions;
      case Role::kOutput:
        return !spec_.tied;
      case Role::kHeadNorm:
        return layer.attention.qk_norm;
      case Role::kQkvBias:
        return layer.attention.qkv_bias;
      case Role::kProjBias:
        return layer.attention.out_bias;
      case Role::kFc1Bias:
      case Role::kFc2Bias:
        return layer.mlp.bias;
      default:
        return true;
    }
  }

  void add(const Names& names, size_t number) {
    const LayerSpec& layer = spec_.layers[number];
    if (!has(names.role, layer)) return;
    WeightRule rule;
    const bool layered = names.role >= Role::kNorm && !is_final(names.role) && names.role != Role::kOutput;
    rule.name = layered ? str_cat("decoder.layers.", number, ".", names.ours) : names.ours;
    const std::vector<const char*>& theirs = naming_ == Naming::kHuggingFace ? names.huggingface : names.gguf;
    for (const char* name : theirs) rule.parts.push_back({numbered(name, number), {}});
    shape(rule, names.role, layer);
    rules_.push_back(std::move(rule));
  }

  void shape(WeightRule& rule, Role role, const LayerSpec& layer) const {
    const int64_t C = spec_.hidden_size, F = layer.mlp.ffn_hidden_size;
    const AttentionSpec& a = layer.attention;
    switch (role) {
      case Role::kWords:
      case Role::kOutput:
        return matrix(rule, {spec_.vocab_size, C}, false);
      case Role::kPositions:
        return matrix(rule, {spec_.max_positions, C}, false);
      case Role::kNorm:
      case Role::kFinalNorm:
      case Role::kHeadNorm:
        rule.offset = layer.norm.zero_centered ? 1.0 : 0.0;
        return vector(rule, {role == Role::kHeadNorm ? a.head_dim : C});
      case Role::kNormBias:
      case Role::kFinalNormBias:
      case Role::kProjBias:
      case Role::kFc2Bias:
        return vector(rule, {C});
      case Role::kQkv:
      case Role::kQkvBias:
        return heads(rule, a, role == Role::kQkvBias);
      case Role::kProj:
        return matrix(rule, {C, a.heads * a.head_dim}, true);
      case Role::kFc1:
        return layer.mlp.gated ? matrix(rule, {2, F, C}, true) : matrix(rule, {F, C}, true);
      case Role::kFc1Bias:
        return layer.mlp.gated ? vector(rule, {2, F}) : vector(rule, {F});
      case Role::kFc2:
        return matrix(rule, {C, F}, true);
    }
  }

  static int64_t rows_of(const WeightRule& rule) { return element_count(rule.shape) / rule.columns; }
  static int64_t element_count(const std::vector<int64_t>& shape) {
    int64_t count = 1;
    for (int64_t extent : shape) count *= extent;
    return count;
  }

  /// Parts of a matrix share its rows evenly. `linear`: Conv1D in GPT-2.
  void matrix(WeightRule& rule, std::vector<int64_t> ours, bool linear) const {
    rule.columns = ours.back();
    rule.shape = std::move(ours);
    rule.transposed = linear && is_conv1d();
    const int64_t rows = rows_of(rule) / std::ssize(rule.parts);
    for (OuterTensor& part : rule.parts) part.shape = two(rows, rule);
  }

  static void vector(WeightRule& rule, std::vector<int64_t> ours) {
    rule.shape = std::move(ours);
    for (OuterTensor& part : rule.parts) part.shape = {element_count(rule.shape) / std::ssize(rule.parts)};
  }

  void heads(WeightRule& rule, const AttentionSpec& a, bool bias) const {
    rule.groups = a.groups;
    rule.queries = div_exact(a.heads, a.groups);
    rule.head_dim = a.head_dim;
    rule.shape = {a.groups, rule.queries + 2, a.head_dim};
    if (!bias) rule.shape.push_back(spec_.hidden_size);
    rule.columns = bias ? 1 : spec_.hidden_size;
    rule.transposed = !bias && is_conv1d();
    rule.order = rule.parts.size() == 1 ? RowOrder::kFusedHeads : RowOrder::kGroups;
    // llama.cpp rotates neighbouring channels in these families, halves in the others.
    rule.paired_rope = naming_ == Naming::kGguf && (family_ == Family::kLlama || family_ == Family::kMistral);
    const int64_t q = a.heads * a.head_dim, kv = a.groups * a.head_dim;
    const std::vector<int64_t> rows = rule.parts.size() == 1 ? std::vector{q + 2 * kv} : std::vector{q, kv, kv};
    for (size_t i = 0; i < rule.parts.size(); ++i)
      rule.parts[i].shape = bias ? std::vector{rows[i]} : two(rows[i], rule);
  }

  bool is_conv1d() const { return family_ == Family::kGpt2 && naming_ == Naming::kHuggingFace; }
  static std::vector<int64_t> two(int64_t rows, const WeightRule& rule) {
    return rule.transposed ? std::vector{rule.columns, rows} : std::vector{rows, rule.columns};
  }

  Family family_;
  Naming naming_;
  const ModelSpec& spec_;
  std::vector<WeightRule> rules_;
};

int64_t rows_of_part(const WeightRule& rule, size_t part) {
  int64_t count = 1;
  for (int64_t extent : rule.parts[part].shape) count *= extent;
  return count / rule.columns;
}

/// Calls body(row, count, part, part_row): `count` rows of the parameter from `row` on are those of the part.
template <typename Body>
void for_each_run(const WeightRule& rule, const Body& body) {
  if (rule.order == RowOrder::kInTurn) {
    int64_t row = 0;
    for (size_t p = 0; p < rule.parts.size(); ++p) {
      body(row, rows_of_part(rule, p), p, int64_t{0});
      row += rows_of_part(rule, p);
    }
    return;
  }
  const int64_t D = rule.head_dim, q_rows = rule.groups * rule.queries * D, k_rows = rule.groups * D;
  const bool fused = rule.order == RowOrder::kFusedHeads;
  const auto head = [&](int64_t row, int64_t heads, size_t part, int64_t part_row, bool rotated) {
    if (!rotated || !rule.paired_rope) return body(row, heads * D, part, part_row);
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t i = 0; i < D; ++i) {  // i = half * D/2 + pair
        body(row + h * D + i, int64_t{1}, part, part_row + h * D + 2 * (i % (D / 2)) + i / (D / 2));
      }
    }
  };
  for (int64_t g = 0; g < rule.groups; ++g) {
    const int64_t row = g * (rule.queries + 2) * D;
    head(row, rule.queries, 0, g * rule.queries * D, true);
    head(row + rule.queries * D, 1, fused ? 0 : 1, (fused ? q_rows : 0) + g * D, true);
    head(row + (rule.queries + 1) * D, 1, fused ? 0 : 2, (fused ? q_rows + k_rows : 0) + g * D, false);
  }
}

/// Copies rows between a parameter and a part, in the direction that `copy` (bytes of ours, of theirs, size) does.
template <typename Copy>
void for_each_piece(const WeightRule& rule, DType dtype, size_t only, const Copy& copy) {
  const int64_t size = size_of(dtype), columns = rule.columns;
  for_each_run(rule, [&](int64_t row, int64_t count, size_t part, int64_t part_row) {
    if (part != only) return;
    if (!rule.transposed) return copy(row * columns * size, part_row * columns * size, count * columns * size);
    const int64_t stride = rows_of_part(rule, part);
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t c = 0; c < columns; ++c) {
        copy(((row + r) * columns + c) * size, (c * stride + part_row + r) * size, size);
      }
    }
  });
}

void add_to_all(DType dtype, double offset, std::span<std::byte> bytes) {
  if (offset == 0) return;
  dispatch_floating("weight_rules", dtype, [&](auto tag) {
    using T = decltype(tag);
    for (size_t i = 0; i + sizeof(T) <= bytes.size(); i += sizeof(T)) {
      T value;
      std::memcpy(&value, bytes.data() + i, sizeof value);
      value = static_cast<T>(static_cast<double>(value) + offset);
      std::memcpy(bytes.data() + i, &value, sizeof value);
    }
  });
}

}  // namespace

std::string_view name_of(Family family) {
  switch (family) {
    case Family::kGpt2:
      return "gpt2";
    case Family::kLlama:
      return "llama";
    case Family::kMistral:
      return "mistral";
    case Family::kQwen2:
      return "qwen2";
    case Family::kQwen3:
      return "qwen3";
  }
  return "?";
}

std::optional<Family> parse_family(std::string_view name) {
  for (Family family : kAllFamilies) {
    if (name == name_of(family)) return family;
  }
  return std::nullopt;
}

std::vector<WeightRule> weight_rules(Family family, Naming naming, const ModelSpec& spec) {
  MEGATRON_CHECK(!spec.layers.empty(), "a model has layers");
  return RuleMaker(family, naming, spec).make();
}

void assemble(const WeightRule& rule, DType dtype, const std::vector<std::span<const std::byte>>& parts,
              std::span<std::byte> parameter) {
  for (size_t p = 0; p < parts.size(); ++p) {
    for_each_piece(rule, dtype, p, [&](int64_t ours, int64_t theirs, int64_t bytes) {
      std::memcpy(parameter.data() + ours, parts[p].data() + theirs, static_cast<size_t>(bytes));
    });
  }
  add_to_all(dtype, -rule.offset, parameter);
}

void take_apart(const WeightRule& rule, DType dtype, size_t part, std::span<const std::byte> parameter,
                std::span<std::byte> out) {
  for_each_piece(rule, dtype, part, [&](int64_t ours, int64_t theirs, int64_t bytes) {
    std::memcpy(out.data() + theirs, parameter.data() + ours, static_cast<size_t>(bytes));
  });
  add_to_all(dtype, rule.offset, out);
}

}  // namespace megatron
