// Rules about ranks: which sizes and switches of section `parallel` go together, and with the batch. One entry per
// refusal: name, keys, condition and sentence; entries stand alone and in no particular order.
#include <algorithm>

#include "base/error.h"
#include "base/strings.h"
#include "config/batch_schedule.h"
#include "config/layer_config.h"
#include "config/rules.h"
#include "config/stage_split.h"

namespace megatron::detail {
namespace {

using Answer = std::optional<std::string>;

Answer refuse_if(bool condition, const std::string& sentence) {
  return condition ? Answer(sentence) : std::nullopt;
}

const ParallelConfig& parallel(const RuleContext& c) {
  return c.config.parallel;
}

/// Ranks that hold one copy of the model.
int64_t model_ranks(const RuleContext& c) {
  const ParallelConfig& p = parallel(c);
  return p.tensor_model_parallel_size * p.pipeline_model_parallel_size * p.context_parallel_size;
}

/// The same for experts, on their own mesh over the same ranks.
int64_t expert_ranks(const RuleContext& c) {
  const ParallelConfig& p = parallel(c);
  return p.expert_tensor_parallel_size * p.expert_model_parallel_size * p.pipeline_model_parallel_size;
}

/// For sizes that only 1 works of.
std::string not_yet(const char* key, int64_t value) {
  return str_cat(key, " ", value,
                 " is not supported yet; this version has tensor, context, pipeline and data parallelism: set 1");
}

Answer batch_divides(const RuleContext& c) {
  const TrainingConfig& t = c.config.training;
  if (c.world_size % model_ranks(c) != 0) return {};  // world-divides says so
  const int64_t data_parallel = c.world_size / model_ranks(c);
  return refuse_if(t.global_batch_size % (t.micro_batch_size * data_parallel) != 0,
                   str_cat("global_batch_size ", t.global_batch_size, " is not divisible by micro_batch_size ",
                           t.micro_batch_size, " * data-parallel size ", data_parallel));
}

Answer pipeline_split(const RuleContext& c) {
  try {
    split_stages(parallel(c), c.config.model.num_layers);
    return {};
  } catch (const UsageError& error) {
    return error.what();
  }
}

std::vector<std::string> pipeline_keys() {
  const std::string p = "parallel.";
  return {p + "pipeline_model_parallel_size",
          p + "pipeline_model_parallel_layout",
          p + "num_virtual_stages_per_pipeline_rank",
          p + "num_layers_per_virtual_pipeline_stage",
          p + "decoder_first_pipeline_num_layers",
          p + "decoder_last_pipeline_num_layers",
          p + "account_for_embedding_in_pipeline_split",
          p + "account_for_loss_in_pipeline_split",
          p + "pipeline_schedule",
          "model.num_layers"};
}

bool shards(const RuleContext& c) {
  return parallel(c).data_parallel_sharding_strategy != "no_shard";
}

Answer instances_fit(const RuleContext& c) {
  const int64_t instances = parallel(c).num_distributed_optimizer_instances;
  if (instances <= 1) return {};
  if (!shards(c)) {
    return str_cat("num_distributed_optimizer_instances ", instances,
                   ": with data_parallel_sharding_strategy no_shard nothing is divided; set optim or leave it out");
  }
  const int64_t data_parallel = c.world_size / model_ranks(c);
  if (c.world_size % model_ranks(c) != 0) return {};  // world-divides says so
  return refuse_if(data_parallel % instances != 0, str_cat("num_distributed_optimizer_instances ", instances,
                                                           " does not divide the data-parallel size ", data_parallel));
}

Answer context_chunks(const RuleContext& c) {
  const int64_t chunks = 2 * c.config.parallel.context_parallel_size, length = c.config.model.seq_length;
  if (chunks == 2 || length % chunks == 0) return {};
  return str_cat("seq_length ", length, " is not divisible by 2 * context_parallel_size = ", chunks,
                 ": every rank takes two equal chunks of a sequence");
}

Answer context_kind(const RuleContext& c) {
  const std::vector<std::string>& kinds = c.config.parallel.cp_comm_type;
  if (kinds.size() != 1) return "cp_comm_type takes one kind, for all layers";
  return {};
}

Answer context_hierarchy(const RuleContext& c) {
  const ParallelConfig& p = c.config.parallel;
  const std::vector<int64_t>& sizes = p.hierarchical_context_parallel_sizes;
  const bool hierarchical = p.cp_comm_type == std::vector<std::string>{"a2a+p2p"};
  if (!hierarchical && !sizes.empty()) return "hierarchical_context_parallel_sizes needs cp_comm_type: [a2a+p2p]";
  if (!hierarchical || (p.context_parallel_size == 1 && sizes.empty())) return {};
  if (sizes.size() == 2 && sizes[0] * sizes[1] == p.context_parallel_size) return {};
  return str_cat(
      "cp_comm_type a2a+p2p needs hierarchical_context_parallel_sizes: [ranks of a group, groups], whose "
      "product is context_parallel_size ",
      p.context_parallel_size);
}

/// Ranks over which cp_comm_type scatters the heads of a tensor rank.
int64_t ranks_for_heads(const ParallelConfig& p) {
  if (p.context_parallel_size == 1 || p.cp_comm_type.empty()) return 1;
  if (p.cp_comm_type[0] == "a2a") return p.context_parallel_size;
  const std::vector<int64_t>& sizes = p.hierarchical_context_parallel_sizes;
  return p.cp_comm_type[0] == "a2a+p2p" && !sizes.empty() ? sizes[0] : 1;
}

Answer context_heads(const RuleContext& c) {
  const ParallelConfig& p = c.config.parallel;
  const int64_t tensor = p.tensor_model_parallel_size, ranks = tensor * ranks_for_heads(p);
  if (ranks == tensor) return {};
  std::vector<LayerConfig> layers;
  try {
    for (int64_t i = 0; i < c.config.model.num_layers; ++i) layers.push_back(layer_config(c.config.model, i));
  } catch (const UsageError&) {
    return {};  // the rules of model.layers say what is wrong with them
  }
  for (size_t i = 0; i < layers.size(); ++i) {
    const int64_t heads = layers[i].num_attention_heads, groups = std::max<int64_t>(layers[i].num_query_groups, 1);
    if (heads % ranks != 0) {
      return str_cat("layer ", i, ": cp_comm_type ", p.cp_comm_type[0], " gives each of ", ranks,
                     " tensor and context ranks as many heads, but there are ", heads, "; use p2p or all_gather");
    }
    if (groups % tensor != 0 && tensor % groups != 0) {
      return str_cat("layer ", i, ": cp_comm_type ", p.cp_comm_type[0], " needs num_query_groups ", groups,
                     " to divide tensor_model_parallel_size ", tensor, " or be divided by it; use p2p or all_gather");
    }
  }
  return {};
}

/// The sizes of a schedule that can be read: global_batch_size is the last of them.
Answer schedule_fits(const RuleContext& c) {
  const TrainingConfig& t = c.config.training;
  if (t.step_batch_size_schedule.empty()) return {};
  std::string problem;
  const auto schedule = parse_batch_schedule(t.step_batch_size_schedule, c.config.model.seq_length, &problem);
  if (!schedule) return "step_batch_size_schedule: " + problem;
  if (t.global_batch_size != schedule->back().batch_size) {
    return str_cat("global_batch_size ", t.global_batch_size, " is not the last size of step_batch_size_schedule, ",
                   schedule->back().batch_size, "; leave it out");
  }
  if (c.world_size % model_ranks(c) != 0) return {};
  const int64_t unit = t.micro_batch_size * (c.world_size / model_ranks(c));
  for (const BatchSizeStep& step : *schedule) {
    if (step.batch_size % unit == 0) continue;
    return str_cat("step_batch_size_schedule: ", step.batch_size, " is not divisible by micro_batch_size ",
                   t.micro_batch_size, " * data-parallel size ", c.world_size / model_ranks(c));
  }
  return {};
}

// Keys that many rules name.
constexpr const char* kTp = "parallel.tensor_model_parallel_size";
constexpr const char* kPp = "parallel.pipeline_model_parallel_size";
constexpr const char* kCp = "parallel.context_parallel_size";
constexpr const char* kEp = "parallel.expert_model_parallel_size";
constexpr const char* kEtp = "parallel.expert_tensor_parallel_size";
constexpr const char* kSp = "parallel.sequence_parallel";
constexpr const char* kKind = "parallel.cp_comm_type";
constexpr const char* kOverlap = "parallel.tp_comm_overlap";
constexpr const char* kOptimizer = "parallel.use_distributed_optimizer";
constexpr const char* kSharding = "parallel.data_parallel_sharding_strategy";

/// Puts rules into a table.
struct Adder {
  std::vector<Rule>& table;
  void operator()(const char* name, std::vector<std::string> keys, Answer (*check)(const RuleContext&)) const {
    table.push_back({name, std::move(keys), check});
  }
};

void add_sizes(const Adder& add) {
  add("world-divides", {kTp, kPp, kCp}, [](const RuleContext& c) {
    return refuse_if(c.world_size % model_ranks(c) != 0,
                     str_cat("tensor * pipeline * context parallel size is ", model_ranks(c),
                             ", which does not divide the world size ", c.world_size));
  });
  add("expert-world-divides", {kEp, kEtp, kPp}, [](const RuleContext& c) {
    return refuse_if(c.world_size % expert_ranks(c) != 0,
                     str_cat("expert tensor * expert * pipeline parallel size is ", expert_ranks(c),
                             ", which does not divide the world size ", c.world_size));
  });
  add("batch-divides", {"training.global_batch_size", "training.micro_batch_size"}, batch_divides);
  add("pipeline-split", pipeline_keys(), pipeline_split);
  add("batch-schedule",
      {"training.step_batch_size_schedule", "training.global_batch_size", "training.micro_batch_size",
       "model.seq_length"},
      schedule_fits);
}

/// What goes with what.
void add_combinations(const Adder& add) {
  add("sequence-parallel", {kSp, kTp}, [](const RuleContext& c) {
    return refuse_if(parallel(c).sequence_parallel && parallel(c).tensor_model_parallel_size == 1,
                     "sequence_parallel needs tensor_model_parallel_size above 1; leave it out");
  });
  add("tp-comm-overlap", {kOverlap, kTp}, [](const RuleContext& c) {
    return refuse_if(parallel(c).tp_comm_overlap && parallel(c).tensor_model_parallel_size == 1,
                     "tp_comm_overlap needs tensor_model_parallel_size above 1; leave it out");
  });
  add("tp-comm-overlap-context", {kOverlap, kCp}, [](const RuleContext& c) {
    return refuse_if(
        parallel(c).tp_comm_overlap && parallel(c).context_parallel_size > 1,
        "tp_comm_overlap cuts the sequence that context_parallel_size cuts already; leave one of them out");
  });
  add("sharding-agrees", {kOptimizer, kSharding}, [](const RuleContext& c) {
    return refuse_if(
        parallel(c).use_distributed_optimizer && !shards(c),
        "use_distributed_optimizer divides the optimizer's state, no_shard nothing; leave one of them out");
  });
  add("gather-needs-sharding", {"parallel.overlap_param_gather", kSharding}, [](const RuleContext& c) {
    return refuse_if(
        parallel(c).overlap_param_gather && !shards(c),
        "overlap_param_gather: with data_parallel_sharding_strategy no_shard nothing is gathered; set optim "
        "(use_distributed_optimizer) or leave it out");
  });
  add("instances-fit", {"parallel.num_distributed_optimizer_instances", kSharding, kTp}, instances_fit);
  add("reduce-in-bf16", {"precision.grad_reduce_in_bf16", "precision.params_dtype"}, [](const RuleContext& c) {
    const PrecisionConfig& p = c.config.precision;
    return refuse_if(p.grad_reduce_in_bf16 && p.params_dtype != "bf16",
                     str_cat("grad_reduce_in_bf16 is for params_dtype: bf16, not ", p.params_dtype));
  });
  add("context-chunks", {kCp, "model.seq_length"}, context_chunks);
  add("context-kind", {kKind}, context_kind);
  add("context-hierarchy", {"parallel.hierarchical_context_parallel_sizes", kKind, kCp}, context_hierarchy);
  add("context-heads", {kKind, kCp, "model.num_attention_heads", "model.num_query_groups"}, context_heads);
}

/// Not there yet.
void add_missing(const Adder& add) {
  add("expert-parallel", {kEp}, [](const RuleContext& c) {
    const int64_t size = parallel(c).expert_model_parallel_size;
    return refuse_if(size > 1, not_yet("expert_model_parallel_size", size));
  });
  add("expert-tensor-parallel", {kEtp}, [](const RuleContext& c) {
    const int64_t size = parallel(c).expert_tensor_parallel_size;  // by default that of tensor parallelism
    return refuse_if(size > 1 && size != parallel(c).tensor_model_parallel_size,
                     not_yet("expert_tensor_parallel_size", size));
  });
}

}  // namespace

void add_parallel_rules(std::vector<Rule>& table) {
  const Adder add{table};
  add_sizes(add);
  add_combinations(add);
  add_missing(add);
}

}  // namespace megatron::detail
