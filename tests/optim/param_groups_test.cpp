// Weight-decay groups: our rule by name against Megatron-LM's rule by name and rank, for every name a GPT can have.
#include <algorithm>
#include <string>
#include <vector>

#include "base/strings.h"
#include "optim/param_groups.h"
#include "tests/catch.h"

namespace megatron {
namespace {

/// A parameter with its rank in Megatron-LM.
struct Upstream {
  const char* name;
  int rank;
};

const std::vector<Upstream> kGptParams = {
    {"embedding.word_embeddings.weight", 2},
    {"embedding.position_embeddings.weight", 2},
    {"embedding.tokentype_embeddings.weight", 2},
    {"decoder.layers.0.input_layernorm.weight", 1},
    {"decoder.layers.0.input_layernorm.bias", 1},
    {"decoder.layers.0.self_attention.linear_qkv.weight", 2},
    {"decoder.layers.0.self_attention.linear_qkv.bias", 1},
    {"decoder.layers.0.self_attention.linear_qkv.layer_norm_weight", 1},
    {"decoder.layers.0.self_attention.linear_qkv.layer_norm_bias", 1},
    {"decoder.layers.0.self_attention.q_layernorm.weight", 1},
    {"decoder.layers.0.self_attention.q_layernorm.bias", 1},
    {"decoder.layers.0.self_attention.k_layernorm.weight", 1},
    {"decoder.layers.0.self_attention.k_layernorm.bias", 1},
    {"decoder.layers.0.self_attention.core_attention.softmax_offset", 1},
    {"decoder.layers.0.self_attention.linear_proj.weight", 2},
    {"decoder.layers.0.self_attention.linear_proj.bias", 1},
    {"decoder.layers.0.self_attention.linear_q_proj.weight", 2},
    {"decoder.layers.0.self_attention.linear_q_down_proj.weight", 2},
    {"decoder.layers.0.self_attention.linear_q_up_proj.weight", 2},
    {"decoder.layers.0.self_attention.linear_q_up_proj.layer_norm_weight", 1},
    {"decoder.layers.0.self_attention.linear_kv_down_proj.weight", 2},
    {"decoder.layers.0.self_attention.linear_kv_up_proj.weight", 2},
    {"decoder.layers.0.self_attention.linear_kv_up_proj.layer_norm_weight", 1},
    {"decoder.layers.0.self_attention.kv_layernorm.weight", 1},
    {"decoder.layers.0.pre_mlp_layernorm.weight", 1},
    {"decoder.layers.0.pre_mlp_layernorm.bias", 1},
    {"decoder.layers.0.mlp.linear_fc1.weight", 2},
    {"decoder.layers.0.mlp.linear_fc1.bias", 1},
    {"decoder.layers.0.mlp.linear_fc1.layer_norm_weight", 1},
    {"decoder.layers.0.mlp.linear_fc2.weight", 2},
    {"decoder.layers.0.mlp.linear_fc2.bias", 1},
    {"decoder.layers.0.mlp.router.weight", 2},
    {"decoder.layers.0.mlp.router.bias", 1},
    {"decoder.layers.0.mlp.router.expert_bias", 1},
    {"decoder.layers.0.mlp.experts.linear_fc1.weight3", 2},
    {"decoder.layers.0.mlp.experts.linear_fc1.bias3", 1},
    {"decoder.layers.0.mlp.experts.linear_fc2.weight12", 2},
    {"decoder.layers.0.mlp.experts.linear_fc2.bias12", 1},
    {"decoder.layers.0.mlp.shared_experts.linear_fc1.weight", 2},
    {"decoder.layers.0.mlp.shared_experts.gate_weight", 2},
    {"decoder.layers.0.mixer.in_proj.weight", 2},
    {"decoder.layers.0.mixer.conv1d.weight", 3},
    {"decoder.layers.0.mixer.conv1d.bias", 1},
    {"decoder.layers.0.mixer.A_log", 1},
    {"decoder.layers.0.mixer.D", 1},
    {"decoder.layers.0.mixer.dt_bias", 1},
    {"decoder.layers.0.mixer.norm.weight", 1},
    {"decoder.layers.0.mixer.out_proj.weight", 2},
    {"decoder.final_layernorm.weight", 1},
    {"decoder.final_layernorm.bias", 1},
    {"decoder.final_norm.weight", 1},
    {"mtp.layers.0.enorm.weight", 1},
    {"mtp.layers.0.hnorm.weight", 1},
    {"mtp.layers.0.eh_proj.weight", 2},
    {"mtp.layers.0.final_layernorm.weight", 1},
    {"output_layer.weight", 2},
    {"output_layer.bias", 1},
};

double upstream_multiplier(const Upstream& param, bool apply_wd_to_qk_layernorm) {
  const std::string name = param.name;
  const bool qk = name.find("q_layernorm.") != std::string::npos || name.find("k_layernorm.") != std::string::npos;
  const bool skipped = ends_with(name, ".bias") || param.rank == 1;
  return skipped && !(apply_wd_to_qk_layernorm && qk) ? 0.0 : 1.0;
}

Schedule schedule_with(std::optional<double> decoupled_lr) {
  OptimizerConfig optimizer;
  optimizer.lr = 1e-3;
  optimizer.min_lr = 1e-4;
  optimizer.decoupled_lr = decoupled_lr;
  optimizer.weight_decay = 0.1;
  TrainingConfig training;
  training.train_iters = 10;
  training.global_batch_size = 1;
  return resolve_schedule(optimizer, training);
}

}  // namespace

TEST_CASE("weight-decay multiplier by name equals Megatron's rule by rank for all GPT names") {
  int decayed = 0;
  for (const Upstream& param : kGptParams) {
    for (bool qk : {false, true}) {
      INFO(param.name << " apply_wd_to_qk_layernorm " << qk);
      ParamGroupSettings settings;
      settings.apply_wd_to_qk_layernorm = qk;
      CHECK(weight_decay_multiplier(param.name, settings) == upstream_multiplier(param, qk));
      decayed += weight_decay_multiplier(param.name, settings) == 1.0 ? 1 : 0;
    }
    CHECK(is_vector_param(param.name) == (param.rank == 1));
  }
  CHECK(decayed == 2 * 22 + 4);  // 22 matrices, and 4 parameters of the QK norms on request
}

TEST_CASE("embeddings lose weight decay only on request") {
  ParamGroupSettings settings;
  settings.decay_embeddings = false;
  CHECK(weight_decay_multiplier("embedding.word_embeddings.weight", settings) == 0.0);
  CHECK(weight_decay_multiplier("embedding.position_embeddings.weight", settings) == 0.0);
  CHECK(weight_decay_multiplier("output_layer.weight", settings) == 1.0);
}

TEST_CASE("decoupled learning rate is for the word embedding and the output layer") {
  std::vector<std::string> found;
  for (const Upstream& param : kGptParams) {
    if (is_embedding_or_output(param.name)) found.emplace_back(param.name);
  }
  CHECK(join(found, " ") == "embedding.word_embeddings.weight output_layer.weight");
}

TEST_CASE("parameter groups partition the names") {
  std::vector<std::string> names;
  for (const Upstream& param : kGptParams) names.emplace_back(param.name);
  for (bool decoupled : {false, true}) {
    const Schedule schedule = schedule_with(decoupled ? std::optional<double>(5e-3) : std::nullopt);
    const std::vector<ParamGroup> groups = make_param_groups(names, schedule, {});
    std::vector<std::string> labels;
    std::vector<int64_t> seen;
    for (const ParamGroup& group : groups) {
      labels.push_back(group.label());
      seen.insert(seen.end(), group.params.begin(), group.params.end());
      for (int64_t i : group.params) {
        CHECK(weight_decay_multiplier(names[static_cast<size_t>(i)], {}) == group.wd_multiplier);
      }
    }
    CHECK(join(labels, " ") == (decoupled ? "default no_weight_decay decoupled_lr" : "default no_weight_decay"));
    std::sort(seen.begin(), seen.end());
    REQUIRE(seen.size() == names.size());
    for (size_t i = 0; i < seen.size(); ++i) CHECK(seen[i] == static_cast<int64_t>(i));
  }
}

TEST_CASE("a group's step uses its own range and multiplier") {
  const Schedule schedule = schedule_with(5e-3);
  const auto groups =
      make_param_groups({"output_layer.weight", "decoder.final_layernorm.weight", "x.weight"}, schedule, {});
  REQUIRE(groups.size() == 3);
  CHECK(group_step(schedule, groups[0], 0).learning_rate == 1e-3);
  CHECK(group_step(schedule, groups[0], 0).weight_decay == 0.1);
  CHECK(group_step(schedule, groups[1], 0).weight_decay == 0.0);
  CHECK(group_step(schedule, groups[2], 0).learning_rate == 5e-3);
  CHECK(group_step(schedule, groups[2], 10).learning_rate == 1e-4);  // the common floor
}

}  // namespace megatron
