// Rules about ranks, batches, schedules, optimizer, precision and checkpoints.
#include <algorithm>

#include "base/error.h"
#include "base/strings.h"
#include "config/layer_config.h"
#include "config/rules.h"

namespace megatron::detail {
namespace {

using Answer = std::optional<std::string>;

Answer world_divides(const RuleContext& c) {
  const ParallelConfig& p = c.config.parallel;
  const int64_t ranks = p.tensor_model_parallel_size * p.pipeline_model_parallel_size * p.context_parallel_size;
  if (c.world_size % ranks == 0) return {};
  return str_cat("tensor * pipeline * context parallel size is ", ranks, ", which does not divide the world size ",
                 c.world_size);
}

Answer not_yet(int64_t value, const char* key) {
  if (value <= 1) return {};
  return str_cat(key, " ", value,
                 " is not supported yet; this version has tensor, context and data parallelism: set 1");
}

Answer pipeline_not_yet(const RuleContext& c) {
  return not_yet(c.config.parallel.pipeline_model_parallel_size, "pipeline_model_parallel_size");
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
Answer expert_not_yet(const RuleContext& c) {
  return not_yet(c.config.parallel.expert_model_parallel_size, "expert_model_parallel_size");
}
Answer expert_tensor_not_yet(const RuleContext& c) {
  const ParallelConfig& p = c.config.parallel;
  if (p.expert_tensor_parallel_size == p.tensor_model_parallel_size) return {};  // its default
  return not_yet(p.expert_tensor_parallel_size, "expert_tensor_parallel_size");
}

Answer sequence_parallel_alone(const RuleContext& c) {
  const ParallelConfig& p = c.config.parallel;
  if (!p.sequence_parallel || p.tensor_model_parallel_size > 1) return {};
  return "sequence_parallel needs tensor_model_parallel_size above 1; leave it out";
}

Answer sharding_not_yet(const RuleContext& c) {
  const std::string& strategy = c.config.parallel.data_parallel_sharding_strategy;
  if (strategy == "no_shard") return {};
  return str_cat("data_parallel_sharding_strategy ", strategy, " is not supported yet; this version has no_shard");
}

Answer batch_divides(const RuleContext& c) {
  const ParallelConfig& p = c.config.parallel;
  const TrainingConfig& t = c.config.training;
  const int64_t model_parallel =
      p.tensor_model_parallel_size * p.pipeline_model_parallel_size * p.context_parallel_size;
  if (c.world_size % model_parallel != 0) return {};
  const int64_t data_parallel = c.world_size / model_parallel;
  if (t.global_batch_size % (t.micro_batch_size * data_parallel) == 0) return {};
  return str_cat("global_batch_size ", t.global_batch_size, " is not divisible by micro_batch_size ",
                 t.micro_batch_size, " * data-parallel size ", data_parallel);
}

Answer length(const RuleContext& c) {
  const TrainingConfig& t = c.config.training;
  if (t.train_iters && t.train_samples) return "train_iters and train_samples exclude each other";
  if (!t.train_iters && !t.train_samples && !t.skip_train) {
    return "how long to train? Set train_iters or train_samples";
  }
  return {};
}

Answer eval_start_alone(const RuleContext& c) {
  if (!c.config.training.start_eval_at_iter || c.config.training.eval_interval) return {};
  return "start_eval_at_iter needs eval_interval";
}

Answer eval_nothing(const RuleContext& c) {
  const TrainingConfig& t = c.config.training;
  if (t.eval_iters > 0 || t.full_validation) return {};
  if (t.skip_train) return "skip_train with eval_iters 0 leaves nothing to do";
  if (t.eval_interval) return "eval_interval with eval_iters 0: set eval_iters, or leave eval_interval out";
  return {};
}

Answer recompute_full(const RuleContext& c) {
  const TrainingConfig& t = c.config.training;
  if (t.recompute_granularity != "full") return {};
  if (t.recompute_method.empty()) return "recompute_granularity: full needs recompute_method: uniform or block";
  if (!t.recompute_num_layers) return "recompute_granularity: full needs recompute_num_layers";
  if (t.recompute_activations) return "recompute_activations means selective; leave it out with full";
  return {};
}

Answer recompute_layers(const RuleContext& c) {
  const TrainingConfig& t = c.config.training;
  if (!t.recompute_num_layers || *t.recompute_num_layers <= c.config.model.num_layers) return {};
  return str_cat("recompute_num_layers ", *t.recompute_num_layers, " exceeds num_layers ", c.config.model.num_layers);
}

Answer recompute_not_full(const RuleContext& c) {
  const TrainingConfig& t = c.config.training;
  if (t.recompute_granularity == "full") return {};
  if (!t.recompute_method.empty()) return "recompute_method is for recompute_granularity: full";
  if (t.recompute_num_layers) return "recompute_num_layers is for recompute_granularity: full";
  return {};
}

Answer recompute_modules(const RuleContext& c) {
  const TrainingConfig& t = c.config.training;
  if (t.recompute_granularity == "selective") {
    if (t.recompute_modules.empty()) return "recompute_granularity: selective needs at least one of recompute_modules";
    return {};
  }
  if (t.recompute_modules == TrainingConfig{}.recompute_modules) return {};
  return "recompute_modules is for recompute_granularity: selective";
}

Answer learning_rates(const RuleContext& c) {
  const OptimizerConfig& o = c.config.optimizer;
  if (o.min_lr > o.lr) return str_cat("min_lr ", o.min_lr, " exceeds lr ", o.lr);
  return {};
}

Answer warmup_start(const RuleContext& c) {
  const OptimizerConfig& o = c.config.optimizer;
  if (o.lr_warmup_init > o.lr) return str_cat("lr_warmup_init ", o.lr_warmup_init, " exceeds lr ", o.lr);
  return {};
}

Answer decoupled_rates(const RuleContext& c) {
  const OptimizerConfig& o = c.config.optimizer;
  if (o.decoupled_min_lr && !o.decoupled_lr) return "decoupled_min_lr needs decoupled_lr";
  const double low = o.decoupled_min_lr.value_or(o.min_lr);
  if (o.decoupled_lr && low > *o.decoupled_lr) {
    return str_cat(o.decoupled_min_lr ? "decoupled_min_lr " : "min_lr ", low, " exceeds decoupled_lr ",
                   *o.decoupled_lr);
  }
  return {};
}

Answer unit_samples(const RuleContext& c) {
  const OptimizerConfig& o = c.config.optimizer;
  if (!c.config.training.train_iters) return {};
  if (o.lr_decay_samples) return "lr_decay_samples goes with train_samples; with train_iters use lr_decay_iters";
  if (o.lr_warmup_samples > 0) return "lr_warmup_samples goes with train_samples; with train_iters use lr_warmup_iters";
  if (o.lr_wsd_decay_samples) {
    return "lr_wsd_decay_samples goes with train_samples; with train_iters use lr_wsd_decay_iters";
  }
  return {};
}

Answer unit_iters(const RuleContext& c) {
  const OptimizerConfig& o = c.config.optimizer;
  if (!c.config.training.train_samples) return {};
  if (o.lr_decay_iters) return "lr_decay_iters goes with train_iters; with train_samples use lr_decay_samples";
  if (o.lr_warmup_iters > 0) return "lr_warmup_iters goes with train_iters; with train_samples use lr_warmup_samples";
  if (o.lr_wsd_decay_iters) {
    return "lr_wsd_decay_iters goes with train_iters; with train_samples use lr_wsd_decay_samples";
  }
  return {};
}

Answer two_warmups(const RuleContext& c) {
  const OptimizerConfig& o = c.config.optimizer;
  if (!o.lr_warmup_fraction || (o.lr_warmup_iters == 0 && o.lr_warmup_samples == 0)) return {};
  return "lr_warmup_fraction excludes lr_warmup_iters and lr_warmup_samples";
}

/// Lengths in the unit of the run: steps or samples; 0 when the run has no length.
struct Lengths {
  int64_t decay = 0;
  int64_t warmup = 0;
  int64_t wsd = 0;
};

Lengths lengths(const Config& c) {
  const OptimizerConfig& o = c.optimizer;
  if (c.training.train_iters) {
    return {o.lr_decay_iters.value_or(*c.training.train_iters), o.lr_warmup_iters, o.lr_wsd_decay_iters.value_or(0)};
  }
  if (!c.training.train_samples) return {};
  return {o.lr_decay_samples.value_or(*c.training.train_samples), o.lr_warmup_samples,
          o.lr_wsd_decay_samples.value_or(0)};
}

Answer warmup_fits(const RuleContext& c) {
  const Lengths l = lengths(c.config);
  if (l.decay == 0 || l.warmup < l.decay) return {};
  return str_cat("warm-up takes ", l.warmup, " of ", l.decay, " ",
                 c.config.training.train_iters ? "iterations" : "samples",
                 " of decay; it must be shorter (lr_decay_iters or lr_decay_samples says how long the decay is)");
}

Answer wsd_length(const RuleContext& c) {
  const Lengths l = lengths(c.config);
  if (c.config.optimizer.lr_decay_style != "WSD" || l.decay == 0) return {};
  if (l.wsd == 0) {
    return str_cat("lr_decay_style: WSD needs ",
                   c.config.training.train_iters ? "lr_wsd_decay_iters" : "lr_wsd_decay_samples");
  }
  if (l.wsd + l.warmup > l.decay) {
    return str_cat("warm-up ", l.warmup, " and the last part of WSD ", l.wsd, " are longer than the decay ", l.decay);
  }
  return {};
}

Answer wsd_alone(const RuleContext& c) {
  const OptimizerConfig& o = c.config.optimizer;
  if (o.lr_decay_style == "WSD" || (!o.lr_wsd_decay_iters && !o.lr_wsd_decay_samples)) return {};
  return str_cat("lr_wsd_decay_iters and _samples are for lr_decay_style: WSD, not ", o.lr_decay_style);
}

Answer decay_ramp(const RuleContext& c) {
  const OptimizerConfig& o = c.config.optimizer;
  const bool has_ends = o.start_weight_decay || o.end_weight_decay;
  if (o.weight_decay_incr_style == "constant") {
    if (has_ends) return "start_ and end_weight_decay need weight_decay_incr_style: linear or cosine";
    return {};
  }
  if (!o.start_weight_decay || !o.end_weight_decay) {
    return str_cat("weight_decay_incr_style: ", o.weight_decay_incr_style,
                   " needs start_weight_decay and end_weight_decay");
  }
  if (*o.start_weight_decay > *o.end_weight_decay) return "start_weight_decay exceeds end_weight_decay";
  return {};
}

Answer two_schedulers(const RuleContext& c) {
  const OptimizerConfig& o = c.config.optimizer;
  if (!o.override_opt_param_scheduler || !o.use_checkpoint_opt_param_scheduler) return {};
  return "override_opt_param_scheduler and use_checkpoint_opt_param_scheduler exclude each other";
}

Answer fp64_on_cpu(const RuleContext& c) {
  if (c.config.precision.params_dtype != "fp64" || c.config.run.device != "cuda") return {};
  return "params_dtype: fp64 is for run.device: cpu";
}

Answer scale_needs_fp16(const RuleContext& c) {
  if (!c.config.precision.loss_scale || c.config.precision.params_dtype == "fp16") return {};
  return str_cat("loss_scale is for params_dtype: fp16, not ", c.config.precision.params_dtype);
}

Answer scale_range(const RuleContext& c) {
  const PrecisionConfig& p = c.config.precision;
  if (p.min_loss_scale <= p.initial_loss_scale) return {};
  return str_cat("min_loss_scale ", p.min_loss_scale, " exceeds initial_loss_scale ", p.initial_loss_scale);
}

Answer profile_range(const RuleContext& c) {
  const ProfileConfig& p = c.config.profile;
  if (p.profile_step_start < p.profile_step_end) return {};
  return str_cat("profile_step_start ", p.profile_step_start, " is not before profile_step_end ", p.profile_step_end);
}

Answer retain_multiple(const RuleContext& c) {
  const CheckpointConfig& k = c.config.checkpoint;
  if (!k.save_retain_interval) return {};
  if (!k.save_interval) return "save_retain_interval needs save_interval";
  if (*k.save_retain_interval % *k.save_interval == 0) return {};
  return str_cat("save_retain_interval ", *k.save_retain_interval, " is not a multiple of save_interval ",
                 *k.save_interval);
}

Answer needs_load(const RuleContext& c) {
  const CheckpointConfig& k = c.config.checkpoint;
  if (!k.load.empty()) return {};
  if (k.ckpt_step) return "ckpt_step needs checkpoint.load";
  if (k.finetune) return "finetune needs checkpoint.load";
  if (k.exit_on_missing_checkpoint) return "exit_on_missing_checkpoint needs checkpoint.load";
  return {};
}

}  // namespace

void add_parallel_rules(std::vector<Rule>& table) {
  const std::string p = "parallel.";
  table.insert(
      table.end(),
      {{"world-divides",
        {p + "tensor_model_parallel_size", p + "pipeline_model_parallel_size", p + "context_parallel_size"},
        world_divides},
       {"pipeline-parallel", {p + "pipeline_model_parallel_size"}, pipeline_not_yet},
       {"context-chunks", {p + "context_parallel_size", "model.seq_length"}, context_chunks},
       {"context-kind", {p + "cp_comm_type"}, context_kind},
       {"context-hierarchy",
        {p + "hierarchical_context_parallel_sizes", p + "cp_comm_type", p + "context_parallel_size"},
        context_hierarchy},
       {"context-heads",
        {p + "cp_comm_type", p + "context_parallel_size", "model.num_attention_heads", "model.num_query_groups"},
        context_heads},
       {"expert-parallel", {p + "expert_model_parallel_size"}, expert_not_yet},
       {"expert-tensor-parallel", {p + "expert_tensor_parallel_size"}, expert_tensor_not_yet},
       {"sequence-parallel", {p + "sequence_parallel", p + "tensor_model_parallel_size"}, sequence_parallel_alone},
       {"sharding", {p + "data_parallel_sharding_strategy"}, sharding_not_yet},
       {"batch-divides", {"training.global_batch_size", "training.micro_batch_size"}, batch_divides}});
}

void add_training_rules(std::vector<Rule>& table) {
  const std::string t = "training.";
  table.insert(
      table.end(),
      {{"length", {t + "train_samples", t + "train_iters"}, length},
       {"eval-start-alone", {t + "start_eval_at_iter", t + "eval_interval"}, eval_start_alone},
       {"eval-nothing", {t + "eval_iters", t + "eval_interval", t + "skip_train"}, eval_nothing},
       {"recompute-full",
        {t + "recompute_granularity", t + "recompute_method", t + "recompute_num_layers", t + "recompute_activations"},
        recompute_full},
       {"recompute-layers", {t + "recompute_num_layers", "model.num_layers"}, recompute_layers},
       {"recompute-not-full",
        {t + "recompute_method", t + "recompute_num_layers", t + "recompute_granularity"},
        recompute_not_full},
       {"recompute-modules", {t + "recompute_modules", t + "recompute_granularity"}, recompute_modules}});
}

void add_optimizer_rules(std::vector<Rule>& table) {
  const std::string o = "optimizer.";
  const std::string iters = "training.train_iters";
  const std::string samples = "training.train_samples";
  table.insert(
      table.end(),
      {{"learning-rates", {o + "min_lr", o + "lr"}, learning_rates},
       {"warmup-start", {o + "lr_warmup_init", o + "lr"}, warmup_start},
       {"decoupled-rates", {o + "decoupled_min_lr", o + "decoupled_lr", o + "min_lr"}, decoupled_rates},
       {"unit-samples",
        {o + "lr_decay_samples", o + "lr_warmup_samples", o + "lr_wsd_decay_samples", iters},
        unit_samples},
       {"unit-iters", {o + "lr_decay_iters", o + "lr_warmup_iters", o + "lr_wsd_decay_iters", samples}, unit_iters},
       {"two-warmups", {o + "lr_warmup_fraction", o + "lr_warmup_iters", o + "lr_warmup_samples"}, two_warmups},
       {"warmup-fits",
        {o + "lr_warmup_iters", o + "lr_warmup_samples", o + "lr_decay_iters", o + "lr_decay_samples", iters, samples},
        warmup_fits},
       {"wsd-length",
        {o + "lr_wsd_decay_iters", o + "lr_wsd_decay_samples", o + "lr_decay_style", o + "lr_decay_iters",
         o + "lr_decay_samples", o + "lr_warmup_iters", o + "lr_warmup_samples", iters, samples},
        wsd_length},
       {"wsd-alone", {o + "lr_wsd_decay_iters", o + "lr_wsd_decay_samples", o + "lr_decay_style"}, wsd_alone},
       {"decay-ramp", {o + "weight_decay_incr_style", o + "start_weight_decay", o + "end_weight_decay"}, decay_ramp},
       {"two-schedulers",
        {o + "override_opt_param_scheduler", o + "use_checkpoint_opt_param_scheduler"},
        two_schedulers},
       {"fp64-on-cpu", {"precision.params_dtype", "run.device"}, fp64_on_cpu},
       {"scale-needs-fp16", {"precision.loss_scale", "precision.params_dtype"}, scale_needs_fp16},
       {"scale-range", {"precision.min_loss_scale", "precision.initial_loss_scale"}, scale_range},
       {"profile-range", {"profile.profile_step_start", "profile.profile_step_end"}, profile_range}});
}

void add_checkpoint_rules(std::vector<Rule>& table) {
  const std::string k = "checkpoint.";
  table.insert(
      table.end(),
      {{"retain-multiple", {k + "save_retain_interval", k + "save_interval"}, retain_multiple},
       {"needs-load", {k + "ckpt_step", k + "finetune", k + "exit_on_missing_checkpoint", k + "load"}, needs_load}});
}

}  // namespace megatron::detail
