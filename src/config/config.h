// The whole configuration as plain data. Each section of the YAML file is one struct whose members have the names of
// the keys. Documentation, ranges and choices of each key are declared once in *_fields.cpp; `megatron config explain`
// prints them. load.h reads YAML into these structs. An optional that is not set means what its key's text says.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/machine_config.h"
#include "config/model_config.h"

namespace megatron {

struct RunConfig {
  std::string dir = "out";
  std::string device = "auto";  ///< auto | cpu | cuda
  int64_t seed = 1234;
  std::optional<int64_t> exit_interval;
  std::optional<double> exit_duration_in_mins;
  bool deterministic_mode = true;
  int64_t cpu_threads = 0;  ///< 0: all cores
  bool replay_non_finite = true;

  bool operator==(const RunConfig&) const = default;
};

struct ParallelConfig {
  int64_t tensor_model_parallel_size = 1;
  int64_t pipeline_model_parallel_size = 1;
  std::string pipeline_schedule = "1f1b";  ///< 1f1b | gpipe | zero-bubble
  std::optional<int64_t> num_virtual_stages_per_pipeline_rank, num_layers_per_virtual_pipeline_stage;
  std::optional<int64_t> decoder_first_pipeline_num_layers, decoder_last_pipeline_num_layers;
  bool account_for_embedding_in_pipeline_split = false, account_for_loss_in_pipeline_split = false;
  std::string pipeline_model_parallel_layout;
  int64_t context_parallel_size = 1;
  std::vector<std::string> cp_comm_type = {"p2p"};  ///< one: p2p | all_gather | a2a | a2a+p2p
  std::vector<int64_t> hierarchical_context_parallel_sizes;
  int64_t expert_model_parallel_size = 1;
  int64_t expert_tensor_parallel_size = 0;  ///< derived: tensor_model_parallel_size
  bool sequence_parallel = false;
  bool tp_comm_overlap = false;
  std::string data_parallel_sharding_strategy;  ///< derived: optim with use_distributed_optimizer, else no_shard
  bool use_distributed_optimizer = false;
  bool overlap_grad_reduce = false;
  bool overlap_param_gather = false;
  std::optional<int64_t> ddp_bucket_size;  ///< elements; not set: max(40 M, 1 M * data-parallel size)
  int64_t num_distributed_optimizer_instances = 1;
  double distributed_timeout_minutes = 10;

  bool operator==(const ParallelConfig&) const = default;
};

struct DataConfig {
  std::vector<std::string> data_path;  ///< prefixes, or weight, prefix, weight, prefix, ...
  std::vector<std::string> train_data_path;
  std::vector<std::string> valid_data_path;
  std::vector<std::string> test_data_path;
  std::string split;  ///< derived: "969,30,1" with data_path, "1,1,1" with mock_data
  bool mock_data = false;
  std::string tokenizer_type;  ///< as tokenizer_types() has them
  std::string tokenizer_model;
  std::string vocab_file;
  std::string merge_file;
  bool eod_mask_loss = false;
  bool reset_position_ids = false;
  bool reset_attention_mask = false;
  int64_t num_workers = 2;

  bool operator==(const DataConfig&) const = default;
};

struct TrainingConfig {
  int64_t micro_batch_size = 0;
  int64_t global_batch_size = 0;  ///< derived: micro_batch_size * data-parallel size, or the last of the schedule
  std::string step_batch_size_schedule;  ///< see batch_schedule.h
  std::optional<int64_t> train_iters;
  std::optional<int64_t> train_samples;
  std::optional<int64_t> eval_interval;
  int64_t eval_iters = 100;
  std::optional<int64_t> start_eval_at_iter;
  bool full_validation = false;
  bool skip_train = false;
  bool calculate_per_token_loss = true;
  bool recompute_activations = false;
  std::string recompute_granularity;  ///< "" (off) | full | selective; derived from recompute_activations
  std::string recompute_method;       ///< "" | uniform | block
  std::optional<int64_t> recompute_num_layers;
  std::vector<std::string> recompute_modules = {"core_attn"};
  std::vector<int64_t> iterations_to_skip;
  bool check_for_nan_in_loss_and_grad = false;
  std::string cuda_graph_impl = "local";  ///< local | none
  bool use_nsys_profiler = false;

  bool operator==(const TrainingConfig&) const = default;
};

struct OptimizerConfig {
  std::string optimizer = "adam";  ///< adam | sgd
  double lr = 0.0;
  double min_lr = 0.0;
  std::string lr_decay_style = "linear";  ///< constant | linear | cosine | inverse-square-root | WSD
  std::optional<int64_t> lr_decay_iters;
  std::optional<int64_t> lr_decay_samples;
  std::optional<double> lr_warmup_fraction;
  int64_t lr_warmup_iters = 0;
  int64_t lr_warmup_samples = 0;
  double lr_warmup_init = 0.0;
  std::string lr_wsd_decay_style = "exponential";  ///< exponential | linear | cosine | minus_sqrt
  std::optional<int64_t> lr_wsd_decay_iters;
  std::optional<int64_t> lr_wsd_decay_samples;
  double weight_decay = 0.01;
  std::optional<double> start_weight_decay;
  std::optional<double> end_weight_decay;
  std::string weight_decay_incr_style = "constant";  ///< constant | linear | cosine
  double adam_beta1 = 0.9;
  double adam_beta2 = 0.999;
  double adam_eps = 1e-8;
  double sgd_momentum = 0.9;
  double clip_grad = 1.0;  ///< 0: off
  bool override_opt_param_scheduler = false;
  bool use_checkpoint_opt_param_scheduler = false;
  bool apply_wd_to_qk_layernorm = false;
  std::optional<double> decoupled_lr;
  std::optional<double> decoupled_min_lr;

  bool operator==(const OptimizerConfig&) const = default;
};

struct PrecisionConfig {
  std::string params_dtype = "fp32";  ///< fp64 | fp32 | bf16 | fp16
  std::optional<double> loss_scale;   ///< set: constant; not set: dynamic with fp16, 1 otherwise
  double initial_loss_scale = 4294967296.0;
  double min_loss_scale = 1.0;
  int64_t loss_scale_window = 1000;
  int64_t hysteresis = 2;
  bool grad_reduce_in_bf16 = false;

  bool operator==(const PrecisionConfig&) const = default;
};

struct CheckpointConfig {
  std::string save;  ///< derived: run.dir/checkpoints
  std::string load;  ///< "": start from scratch
  std::optional<int64_t> save_interval;
  std::optional<int64_t> save_retain_interval;
  std::optional<int64_t> most_recent_k;
  bool exit_on_missing_checkpoint = false;
  std::optional<int64_t> ckpt_step;
  bool finetune = false;
  bool load_optim = true;
  bool save_optim = true;
  bool load_rng = true;
  bool save_rng = true;
  bool async_save = false;

  bool operator==(const CheckpointConfig&) const = default;
};

struct LoggingConfig {
  int64_t log_interval = 100;
  bool tensorboard = true;
  std::string tensorboard_dir;  ///< derived: run.dir/tensorboard
  int64_t tensorboard_log_interval = 1;
  std::string log_level = "info";  ///< debug | info | warning | error

  bool operator==(const LoggingConfig&) const = default;
};

struct ProfileConfig {
  int64_t profile_step_start = 10;
  int64_t profile_step_end = 12;

  bool operator==(const ProfileConfig&) const = default;
};

struct Config {
  RunConfig run;
  ModelConfig model;
  ParallelConfig parallel;
  DataConfig data;
  TrainingConfig training;
  OptimizerConfig optimizer;
  PrecisionConfig precision;
  CheckpointConfig checkpoint;
  LoggingConfig logging;
  ProfileConfig profile;
  MachineConfig machine;

  bool operator==(const Config&) const = default;
};

}  // namespace megatron
