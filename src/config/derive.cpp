#include "config/derive.h"

#include <algorithm>

#include "base/strings.h"
#include "config/batch_schedule.h"
#include "config/field.h"
#include "config/layer_config.h"

namespace megatron {
namespace {

class Derivation {
 public:
  explicit Derivation(std::set<std::string>* keys) : keys_(keys) {}

  /// A choice that someone may want to know of: reckoned from other keys, or against what the file says.
  template <typename Member, typename Value>
  void decide(const char* key, Member& member, const Value& value, const std::string& why) {
    fill(key, member, value);
    lines_.push_back(str_cat(key, " = ", value_text(&member), ": ", why));
  }
  /// A plain default, or another key's value under its own name: no line.
  template <typename Member, typename Value>
  void fill(const char* key, Member& member, const Value& value) {
    member = value;
    if (keys_ != nullptr) keys_->insert(key);
  }
  void note(std::string line) { lines_.push_back(std::move(line)); }
  std::vector<std::string> take() { return std::move(lines_); }

 private:
  std::vector<std::string> lines_;
  std::set<std::string>* keys_;
};

void derive_activation(Derivation& d, ModelConfig& m) {
  if (m.activation_func.empty()) {
    const char* name =
        m.swiglu ? "silu" : (m.squared_relu ? "squared_relu" : (m.quick_geglu ? "quick_gelu" : "gelu_tanh"));
    d.fill("model.activation_func", m.activation_func, name);
  }
  if (!m.gated_linear_unit) d.fill("model.gated_linear_unit", m.gated_linear_unit, m.swiglu || m.quick_geglu);
}

void derive_shape(Derivation& d, ModelConfig& m) {
  if (m.ffn_hidden_size == 0 && m.hidden_size > 0) {
    if (*m.gated_linear_unit) {
      // Whole numbers throughout: 4h * 2/3 in floating point may land just below a multiple of 64.
      d.decide("model.ffn_hidden_size", m.ffn_hidden_size, std::max<int64_t>(m.hidden_size * 8 / 3 / 64 * 64, 64),
               "4 * hidden_size * 2/3 rounded down to a multiple of 64, gated");
    } else {
      d.decide("model.ffn_hidden_size", m.ffn_hidden_size, 4 * m.hidden_size, "4 * hidden_size");
    }
  }
  if (m.num_query_groups == 0 && m.num_attention_heads > 0) {
    d.fill("model.num_query_groups", m.num_query_groups, m.num_attention_heads);
  }
  if (m.kv_channels == 0 && m.num_attention_heads > 0 && m.hidden_size >= m.num_attention_heads) {
    d.decide("model.kv_channels", m.kv_channels, m.hidden_size / m.num_attention_heads,
             "hidden_size / num_attention_heads");
  }
  if (m.max_position_embeddings == 0 && m.seq_length > 0) {
    d.fill("model.max_position_embeddings", m.max_position_embeddings, m.seq_length);
  }
  if (m.add_bias_linear && !m.add_qkv_bias) {
    d.decide("model.add_qkv_bias", m.add_qkv_bias, true, "add_bias_linear puts biases in all linear layers");
  }
}

void note_overlap(Derivation& d, const Config& c) {
  if (!c.parallel.tp_comm_overlap) return;
  const int64_t pieces = tp_overlap_pieces(c), tokens = c.model.seq_length * c.training.micro_batch_size;
  d.note(pieces > 1 ? str_cat("parallel.tp_comm_overlap: ", pieces, " pieces of ", tokens / pieces, " tokens")
                    : str_cat("parallel.tp_comm_overlap has no effect: a micro-batch of ", tokens,
                              " tokens makes no equal pieces of ", kOverlapLeastRows,
                              " or more, a multiple of 128, as large products need"));
}

/// Settings of data parallelism that do nothing because nobody is there to share with.
void note_sharding(Derivation& d, const Config& c, int64_t world_size) {
  const ParallelConfig& p = c.parallel;
  const int64_t model = p.tensor_model_parallel_size * p.pipeline_model_parallel_size * p.context_parallel_size;
  if (world_size % model != 0 || world_size == 1 || world_size / model / p.num_distributed_optimizer_instances != 1)
    return;
  const bool divides = !p.data_parallel_sharding_strategy.empty() && p.data_parallel_sharding_strategy != "no_shard";
  const std::string why = " has no effect: only data-parallel ranks share it, and there is one (of an instance)";
  if (divides) d.note("parallel.data_parallel_sharding_strategy" + why);
  if (p.overlap_grad_reduce) d.note("parallel.overlap_grad_reduce" + why);
  if (p.overlap_param_gather) d.note("parallel.overlap_param_gather" + why);
}

void derive_run(Derivation& d, Config& c, int64_t world_size) {
  if (c.parallel.expert_tensor_parallel_size == 0) {
    d.fill("parallel.expert_tensor_parallel_size", c.parallel.expert_tensor_parallel_size,
           c.parallel.tensor_model_parallel_size);
  }
  if (c.parallel.data_parallel_sharding_strategy.empty()) {
    d.fill("parallel.data_parallel_sharding_strategy", c.parallel.data_parallel_sharding_strategy,
           c.parallel.use_distributed_optimizer ? "optim" : "no_shard");
  }
  std::string problem;  // a rule's to report
  const auto sizes = c.training.step_batch_size_schedule.empty() || c.model.seq_length <= 0
                         ? std::nullopt
                         : parse_batch_schedule(c.training.step_batch_size_schedule, c.model.seq_length, &problem);
  if (c.training.global_batch_size == 0 && sizes) {
    d.decide("training.global_batch_size", c.training.global_batch_size, sizes->back().batch_size,
             "the last of step_batch_size_schedule");
  }
  if (c.training.global_batch_size == 0 && c.training.micro_batch_size > 0) {
    const int64_t model_parallel = c.parallel.tensor_model_parallel_size * c.parallel.pipeline_model_parallel_size *
                                   c.parallel.context_parallel_size;
    const int64_t data_parallel = std::max<int64_t>(world_size / model_parallel, 1);
    d.decide("training.global_batch_size", c.training.global_batch_size, c.training.micro_batch_size * data_parallel,
             "micro_batch_size * data-parallel size");
  }
  if (c.data.split.empty() && c.data.mock_data) {
    d.fill("data.split", c.data.split, "1,1,1");
  } else if (c.data.split.empty() && !c.data.data_path.empty()) {
    d.decide("data.split", c.data.split, "969,30,1", "shares of training, validation and test, since none are given");
  }
  if (c.training.recompute_activations && c.training.recompute_granularity.empty()) {
    d.decide("training.recompute_granularity", c.training.recompute_granularity, "selective", "recompute_activations");
  }
  const bool dynamic_scale = c.precision.params_dtype == "fp16" && !c.precision.loss_scale;
  if (dynamic_scale && c.training.check_for_nan_in_loss_and_grad) {
    d.decide("training.check_for_nan_in_loss_and_grad", c.training.check_for_nan_in_loss_and_grad, false,
             "the dynamic loss scale of fp16 expects steps that are not finite");
  }
  if (c.training.skip_train && c.checkpoint.load_optim) {
    d.decide("checkpoint.load_optim", c.checkpoint.load_optim, false, "skip_train");
  }
  if (c.checkpoint.save.empty()) {
    d.fill("checkpoint.save", c.checkpoint.save, c.run.dir + "/checkpoints");
  }
  if (c.logging.tensorboard && c.logging.tensorboard_dir.empty()) {
    d.fill("logging.tensorboard_dir", c.logging.tensorboard_dir, c.run.dir + "/tensorboard");
  }
}

}  // namespace

std::vector<std::string> derive_defaults(Config& config, int64_t world_size, std::set<std::string>* derived) {
  Derivation derivation(derived);
  derive_activation(derivation, config.model);
  derive_shape(derivation, config.model);
  derive_run(derivation, config, world_size);
  note_overlap(derivation, config);
  note_sharding(derivation, config, world_size);
  return derivation.take();
}

}  // namespace megatron
