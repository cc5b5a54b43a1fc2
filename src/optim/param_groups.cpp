#include "optim/param_groups.h"

#include <array>
#include <cctype>

#include "base/strings.h"

namespace megatron {
namespace {

/// Last component of a dotted name, and the component before it.
struct NameEnd {
  std::string_view module;
  std::string_view leaf;
};

NameEnd name_end(std::string_view name) {
  const size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return {{}, name};
  const std::string_view path = name.substr(0, dot);
  const size_t before = path.rfind('.');
  return {before == std::string_view::npos ? path : path.substr(before + 1), name.substr(dot + 1)};
}

/// "bias", and "bias7" of the seventh expert in grouped experts.
bool is_bias_leaf(std::string_view leaf) {
  while (!leaf.empty() && std::isdigit(static_cast<unsigned char>(leaf.back()))) leaf.remove_suffix(1);
  return leaf == "bias";
}

// Vectors that are neither a bias nor the scale of a norm module: norms fused into a linear, attention sinks, the
// recurrence parameters of Mamba and of gated delta nets, the router's balance bias and vision layer scales.
constexpr std::array<std::string_view, 9> kVectorLeaves = {
    "layer_norm_weight", "layer_norm_bias", "softmax_offset", "A_log", "D", "dt_bias", "expert_bias", "ls1", "ls2"};

bool is_qk_norm(std::string_view name) {
  const std::string_view module = name_end(name).module;
  return module == "q_layernorm" || module == "k_layernorm";
}

}  // namespace

bool is_vector_param(std::string_view name) {
  const NameEnd end = name_end(name);
  if (is_bias_leaf(end.leaf)) return true;
  for (std::string_view leaf : kVectorLeaves) {
    if (end.leaf == leaf) return true;
  }
  // input_layernorm, pre_mlp_layernorm, final_layernorm, q_layernorm, kv_layernorm, final_norm, enorm, hnorm, norm
  return end.leaf == "weight" && ends_with(end.module, "norm");
}

bool is_embedding_or_output(std::string_view name) {
  const NameEnd end = name_end(name);
  return end.leaf == "weight" && (end.module == "word_embeddings" || end.module == "output_layer");
}

double weight_decay_multiplier(std::string_view name, const ParamGroupSettings& settings) {
  if (settings.apply_wd_to_qk_layernorm && is_qk_norm(name)) return 1.0;
  if (is_vector_param(name)) return 0.0;
  if (!settings.decay_embeddings && starts_with(name, "embedding.")) return 0.0;
  return 1.0;
}

std::string ParamGroup::label() const {
  if (!is_decoupled_lr) return wd_multiplier == 0.0 ? "no_weight_decay" : "default";
  return wd_multiplier == 0.0 ? "decoupled_lr+no_weight_decay" : "decoupled_lr";
}

std::vector<ParamGroup> make_param_groups(const std::vector<std::string>& names, const Schedule& schedule,
                                          const ParamGroupSettings& settings) {
  std::array<ParamGroup, 4> all;
  for (size_t i = 0; i < all.size(); ++i) {
    all[i].wd_multiplier = i % 2 == 0 ? 1.0 : 0.0;
    all[i].is_decoupled_lr = i >= 2;
    all[i].lr = all[i].is_decoupled_lr ? schedule.decoupled.value_or(schedule.lr) : schedule.lr;
  }
  for (size_t i = 0; i < names.size(); ++i) {
    const bool decoupled = schedule.decoupled.has_value() && is_embedding_or_output(names[i]);
    const bool decayed = weight_decay_multiplier(names[i], settings) != 0.0;
    all[(decoupled ? 2u : 0u) + (decayed ? 0u : 1u)].params.push_back(static_cast<int64_t>(i));
  }
  std::vector<ParamGroup> groups;
  for (ParamGroup& group : all) {
    if (!group.params.empty()) groups.push_back(std::move(group));
  }
  return groups;
}

GroupStep group_step(const Schedule& schedule, const ParamGroup& group, int64_t num_steps) {
  return {learning_rate(schedule, num_steps, group.lr), weight_decay(schedule, num_steps) * group.wd_multiplier};
}

}  // namespace megatron
