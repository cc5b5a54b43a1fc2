// Which weight decay and learning rate a parameter gets, decided by its Megatron-Core name.
//
// Megatron-LM's rule (get_standard_config_overrides): no weight decay for names ending in ".bias" and for tensors of
// rank 1. Our parameters have logical shapes (a QKV bias is [groups, q + 2, d]), so rank says nothing here and the name
// decides: what is of rank 1 upstream are biases, norm scales and the few vectors listed in the source.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "optim/lr_schedule.h"

namespace megatron {

struct ParamGroupSettings {
  bool apply_wd_to_qk_layernorm = false;  ///< q_layernorm and k_layernorm (scale and bias) keep weight decay
  bool decay_embeddings = true;  ///< false when embedding_init_method_std is set (Takase et al., arXiv 2312.16903)
};

/// 0 or 1, the factor on the scheduled weight decay.
double weight_decay_multiplier(std::string_view name, const ParamGroupSettings& settings);

/// Word embedding or output layer: the parameters that `decoupled_lr` is for.
bool is_embedding_or_output(std::string_view name);

/// True for what has rank 1 in Megatron-LM: biases, norm scales, per-head and per-channel vectors.
bool is_vector_param(std::string_view name);

/// Parameters that share a learning rate and a weight decay.
struct ParamGroup {
  double wd_multiplier = 1.0;
  bool is_decoupled_lr = false;
  LrRange lr;
  std::vector<int64_t> params;  ///< indices into the list of names, ascending

  /// "default", "no_weight_decay", "decoupled_lr", "decoupled_lr+no_weight_decay".
  std::string label() const;
};

/// Non-empty groups in a fixed order (default, no_weight_decay, decoupled_lr, decoupled_lr+no_weight_decay). Every name
/// is in exactly one group. Decoupled groups exist only when the schedule has a decoupled range.
std::vector<ParamGroup> make_param_groups(const std::vector<std::string>& names, const Schedule& schedule,
                                          const ParamGroupSettings& settings);

/// What the optimizer uses in one step for one group.
struct GroupStep {
  double learning_rate = 0.0;
  double weight_decay = 0.0;
};
GroupStep group_step(const Schedule& schedule, const ParamGroup& group, int64_t num_steps);

}  // namespace megatron
