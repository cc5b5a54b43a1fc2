// Every rule of the table is triggered by at least one case here; a rule without a case fails the last test.
#include "config/rules.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>

#include "base/strings.h"
#include "config/layer_config.h"
#include "config/reader.h"
#include "example.h"
#include "tests/catch.h"

namespace megatron {
namespace {

using test::contains;
using test::error_of;

struct Case {
  std::string rule;
  std::vector<std::string> sets;  ///< on top of the sound configuration
  std::string message;            ///< part of what is said
  int64_t world_size = 1;
};

const std::vector<std::string> kRope = {"model.position_embedding_type=rope"};

std::vector<Case> model_cases() {
  return {
      {"head-width", {"model.hidden_size=66"}, "not divisible by num_attention_heads 4"},
      {"more-heads-than-channels", {"model.hidden_size=2"}, "num_attention_heads 4 exceeds hidden_size 2"},
      {"query-groups", {"model.num_query_groups=3"}, "num_query_groups 3 does not divide"},
      {"positions-fit", {"model.max_position_embeddings=31"}, "max_position_embeddings 31 is below seq_length 32"},
      {"rotated-channels", {"model.position_embedding_type=rope", "model.rotary_percent=0.2"}, "gives 3 rotated"},
      {"rotated-channels", {"model.position_embedding_type=rope", "model.kv_channels=1"}, "gives 1 rotated"},
      {"rope-only", {"model.use_rope_scaling=true"}, "use_rope_scaling needs"},
      {"rope-only",
       {"model.position_embedding_type=yarn", "model.yarn_original_max_position_embeddings=16",
        "model.rotary_seq_len_interpolation_factor=2"},
       "rotary_seq_len_interpolation_factor needs"},
      {"rotation-only", {"model.rotary_interleaved=true"}, "rotary_interleaved needs"},
      {"rotation-only", {"model.no_rope_freq=4"}, "no_rope_freq needs"},
      {"two-stretchings",
       {"model.position_embedding_type=rope", "model.use_rope_scaling=true",
        "model.rotary_seq_len_interpolation_factor=2"},
       "keep one"},
      {"yarn-settings", {"model.position_embedding_type=yarn"}, "needs yarn_original_max_position_embeddings"},
      {"yarn-settings",
       {"model.position_embedding_type=yarn", "model.yarn_original_max_position_embeddings=16",
        "model.rotary_interleaved=true"},
       "leave rotary_interleaved out"},
      {"yarn-settings",
       {"model.position_embedding_type=yarn", "model.yarn_original_max_position_embeddings=16",
        "model.yarn_beta_slow=32"},
       "yarn_beta_fast must be above"},
      {"window", {"model.window_size=[4]"}, "is a pair"},
      {"window", {"model.window_size=[4, 1]"}, "looks 1 tokens ahead"},
      {"window-pattern-alone", {"model.window_attn_skip_freq=2"}, "needs window_size"},
      {"window-pattern", {"model.window_size=[3, 0]", "model.window_attn_skip_freq=[1, 0]"}, "has 2 entries for 4"},
      {"window-pattern", {"model.window_size=[3, 0]", "model.window_attn_skip_freq=0"}, "at least 1"},
      {"window-pattern", {"model.window_size=[3, 0]", "model.window_attn_skip_freq=[1, 0, 2, 1]"}, "has entry 2"},
      {"rope-pattern", {"model.position_embedding_type=rope", "model.no_rope_freq=[1, 0, 1]"}, "has 3 entries for 4"},
      {"one-activation-switch", {"model.swiglu=true", "model.squared_relu=true"}, "swiglu and squared_relu exclude"},
      {"activation-agrees", {"model.swiglu=true", "model.activation_func=gelu"}, "swiglu means activation_func: silu"},
      {"activation-agrees", {"model.squared_relu=true", "model.gated_linear_unit=true"}, "squared_relu means"},
      {"activation-agrees", {"model.quick_geglu=true", "model.gated_linear_unit=false"}, "quick_geglu means"},
      {"activation-agrees", {"model.openai_gelu=true", "model.activation_func=gelu"}, "openai_gelu means"},
      {"two-inits", {"model.init_method_xavier_uniform=true", "model.init_method_std=0.01"}, "keep one"},
      {"layers-exist", {"model.layers=[{layers: 4, hidden_dropout: 0.2}]"}, "there is no layer 4"},
      {"layers-exist", {"model.layers=[{layers: 3-1, hidden_dropout: 0.2}]"}, "runs backwards"},
      {"layers-exist", {"model.layers=[{layers: first, hidden_dropout: 0.2}]"}, "write layers as"},
      {"layers-rotation", {"model.layers=[{layers: 0, position_embedding_type: rope}]"}, "can only switch it off"},
      {"layers-rotation", {"model.layers=[{layers: 0, rotary_base: 500}]"}, "rotary_base needs"},
      {"layers-combination", {"model.layers=[{layers: 2, num_attention_heads: 6}]"}, "layer 2: num_query_groups 4"},
      {"layers-combination", {"model.layers=[{layers: 1, window_size: [1]}]"}, "layer 1: window_size is a pair"},
      {"layers-combination",
       {"model.position_embedding_type=rope", "model.layers=[{layers: -1, kv_channels: 3}]"},
       "layer 3: 3 rotated channels"},
  };
}

std::vector<Case> run_cases() {
  return {
      {"world-divides", {"parallel.tensor_model_parallel_size=2"}, "does not divide the world size 3", 3},
      {"pipeline-split", {"parallel.pipeline_model_parallel_size=3"}, "4 layers do not divide among 3 stages", 3},
      {"pipeline-split", {"parallel.num_virtual_stages_per_pipeline_rank=2"}, "pipeline_model_parallel_size above 1"},
      {"expert-world-divides",
       {"parallel.expert_model_parallel_size=2"},
       "expert tensor * expert * pipeline parallel size is 2, which does not divide the world size 3",
       3},
      {"context-chunks",
       {"parallel.context_parallel_size=3", "parallel.cp_comm_type=[all_gather]", "model.seq_length=16"},
       "not divisible by 2 * context_parallel_size = 6",
       3},
      {"context-hierarchy",
       {"parallel.context_parallel_size=2", "parallel.cp_comm_type=[a2a+p2p]"},
       "needs hierarchical_context_parallel_sizes",
       2},
      {"context-hierarchy",
       {"parallel.context_parallel_size=2", "parallel.cp_comm_type=[a2a+p2p]",
        "parallel.hierarchical_context_parallel_sizes=[2, 2]"},
       "whose product is context_parallel_size 2",
       2},
      {"context-hierarchy", {"parallel.hierarchical_context_parallel_sizes=[1, 1]"}, "needs cp_comm_type: [a2a+p2p]"},
      {"context-heads",
       {"parallel.context_parallel_size=8", "parallel.cp_comm_type=[a2a]", "model.seq_length=32",
        "training.global_batch_size=8"},
       "each of 8 tensor and context ranks as many heads, but there are 4",
       8},
      {"context-heads",
       {"parallel.context_parallel_size=2", "parallel.tensor_model_parallel_size=2", "parallel.cp_comm_type=[a2a]",
        "model.num_attention_heads=12", "model.hidden_size=48", "model.num_query_groups=3"},
       "needs num_query_groups 3 to divide tensor_model_parallel_size 2",
       4},
      {"context-kind", {"parallel.cp_comm_type=[p2p, a2a]"}, "takes one kind"},
      {"expert-parallel", {"parallel.expert_model_parallel_size=2"}, "not supported yet"},
      {"expert-tensor-parallel", {"parallel.expert_tensor_parallel_size=2"}, "not supported yet"},
      {"sequence-parallel", {"parallel.sequence_parallel=true"}, "needs tensor_model_parallel_size above 1"},
      {"tp-comm-overlap", {"parallel.tp_comm_overlap=true"}, "needs tensor_model_parallel_size above 1"},
      {"tp-comm-overlap-context",
       {"parallel.tp_comm_overlap=true", "parallel.context_parallel_size=2"},
       "leave one of them out",
       2},
      {"sharding-agrees",
       {"parallel.use_distributed_optimizer=true", "parallel.data_parallel_sharding_strategy=no_shard"},
       "leave one of them out"},
      {"gather-needs-sharding", {"parallel.overlap_param_gather=true"}, "nothing is gathered"},
      {"instances-fit", {"parallel.num_distributed_optimizer_instances=2"}, "nothing is divided", 2},
      {"instances-fit",
       {"parallel.num_distributed_optimizer_instances=2", "parallel.use_distributed_optimizer=true"},
       "does not divide the data-parallel size 3",
       3},
      {"reduce-in-bf16", {"precision.grad_reduce_in_bf16=true"}, "is for params_dtype: bf16"},
      {"batch-divides", {"training.global_batch_size=7"}, "global_batch_size 7 is not divisible"},
      {"batch-schedule", {"training.step_batch_size_schedule=0:8 12:x"}, "'12:x' is not TOKENS:SAMPLES"},
      {"batch-schedule", {"training.step_batch_size_schedule=1K:8"}, "the first threshold is 1000 tokens, not 0"},
      {"batch-schedule", {"training.step_batch_size_schedule=0:8 20:16"}, "is not a sample after"},
      {"batch-schedule", {"training.step_batch_size_schedule=0:8 1M:4"}, "makes the batch smaller than 8"},
      {"batch-schedule", {"training.step_batch_size_schedule=0:4 1M:400"}, "is not the last size of"},
      {"batch-schedule",
       {"training.step_batch_size_schedule=0:7 1M:8", "training.global_batch_size=8"},
       "step_batch_size_schedule: 7 is not divisible"},
      {"length", {"training.train_samples=800"}, "exclude each other"},
      {"length", {"training.train_iters=null"}, "how long to train?"},
      {"eval-start-alone", {"training.start_eval_at_iter=5"}, "needs eval_interval"},
      {"eval-nothing", {"training.eval_iters=0", "training.eval_interval=5"}, "set eval_iters"},
      {"eval-nothing", {"training.eval_iters=0", "training.skip_train=true"}, "nothing to do"},
      {"recompute-full", {"training.recompute_granularity=full"}, "needs recompute_method"},
      {"recompute-full",
       {"training.recompute_granularity=full", "training.recompute_method=block"},
       "needs recompute_num_layers"},
      {"recompute-full",
       {"training.recompute_granularity=full", "training.recompute_method=block", "training.recompute_num_layers=1",
        "training.recompute_activations=true"},
       "means selective"},
      {"recompute-layers",
       {"training.recompute_granularity=full", "training.recompute_method=block", "training.recompute_num_layers=5"},
       "exceeds num_layers 4"},
      {"recompute-not-full", {"training.recompute_method=uniform"}, "is for recompute_granularity: full"},
      {"recompute-not-full",
       {"training.recompute_activations=true", "training.recompute_num_layers=1"},
       "recompute_num_layers is for"},
      {"recompute-modules", {"training.recompute_modules=[mlp]"}, "is for recompute_granularity: selective"},
      {"recompute-modules",
       {"training.recompute_activations=true", "training.recompute_modules=[]"},
       "at least one of"},
      {"learning-rates", {"optimizer.min_lr=0.01"}, "min_lr 0.01 exceeds lr 0.001"},
      {"warmup-start", {"optimizer.lr_warmup_init=0.01"}, "lr_warmup_init 0.01 exceeds"},
      {"decoupled-rates", {"optimizer.decoupled_min_lr=0.01"}, "needs decoupled_lr"},
      {"decoupled-rates", {"optimizer.decoupled_lr=0.01", "optimizer.decoupled_min_lr=0.1"}, "exceeds decoupled_lr"},
      {"decoupled-rates", {"optimizer.decoupled_lr=1e-5", "optimizer.min_lr=1e-4"}, "min_lr 0.0001 exceeds"},
      {"unit-samples", {"optimizer.lr_decay_samples=10"}, "use lr_decay_iters"},
      {"unit-samples", {"optimizer.lr_warmup_samples=10"}, "use lr_warmup_iters"},
      {"unit-samples", {"optimizer.lr_wsd_decay_samples=10"}, "use lr_wsd_decay_iters"},
      {"unit-iters",
       {"training.train_iters=null", "training.train_samples=800", "optimizer.lr_decay_iters=10"},
       "use lr_decay_samples"},
      {"unit-iters",
       {"training.train_iters=null", "training.train_samples=800", "optimizer.lr_warmup_iters=10"},
       "use lr_warmup_samples"},
      {"unit-iters",
       {"training.train_iters=null", "training.train_samples=800", "optimizer.lr_wsd_decay_iters=10"},
       "use lr_wsd_decay_samples"},
      {"two-warmups", {"optimizer.lr_warmup_fraction=0.1", "optimizer.lr_warmup_iters=3"}, "excludes"},
      {"warmup-fits", {"optimizer.lr_warmup_iters=100"}, "warm-up takes 100 of 100 iterations"},
      {"warmup-fits",
       {"training.train_iters=null", "training.train_samples=800", "optimizer.lr_warmup_samples=900"},
       "900 of 800 samples"},
      {"wsd-length", {"optimizer.lr_decay_style=WSD"}, "needs lr_wsd_decay_iters"},
      {"wsd-length",
       {"optimizer.lr_decay_style=WSD", "optimizer.lr_wsd_decay_iters=60", "optimizer.lr_warmup_iters=50"},
       "longer than the decay 100"},
      {"wsd-alone", {"optimizer.lr_wsd_decay_iters=60"}, "are for lr_decay_style: WSD"},
      {"decay-ramp", {"optimizer.start_weight_decay=0.1"}, "need weight_decay_incr_style"},
      {"decay-ramp", {"optimizer.weight_decay_incr_style=linear"}, "needs start_weight_decay"},
      {"decay-ramp",
       {"optimizer.weight_decay_incr_style=linear", "optimizer.start_weight_decay=0.2",
        "optimizer.end_weight_decay=0.1"},
       "exceeds end_weight_decay"},
      {"two-schedulers",
       {"optimizer.override_opt_param_scheduler=true", "optimizer.use_checkpoint_opt_param_scheduler=true"},
       "exclude each other"},
      {"fp64-on-cpu", {"precision.params_dtype=fp64", "run.device=cuda"}, "is for run.device: cpu"},
      {"scale-needs-fp16", {"precision.loss_scale=128"}, "is for params_dtype: fp16, not fp32"},
      {"profile-range", {"profile.profile_step_start=12"}, "not before profile_step_end"},
      {"scale-range", {"precision.min_loss_scale=4", "precision.initial_loss_scale=2"}, "exceeds initial_loss_scale"},
      {"retain-multiple", {"checkpoint.save_retain_interval=5"}, "needs save_interval"},
      {"retain-multiple", {"checkpoint.save_retain_interval=5", "checkpoint.save_interval=2"}, "not a multiple"},
      {"needs-load", {"checkpoint.ckpt_step=5"}, "ckpt_step needs checkpoint.load"},
      {"needs-load", {"checkpoint.finetune=true"}, "finetune needs checkpoint.load"},
      {"needs-load", {"checkpoint.exit_on_missing_checkpoint=true"}, "exit_on_missing_checkpoint needs"},
  };
}

std::vector<Case> data_cases() {
  return {
      {"one-source", {"data.mock_data=false"}, "no data: set data_path"},
      {"one-source", {"data.data_path=[a]"}, "data_path and mock_data exclude each other"},
      {"training-source", {"data.mock_data=false", "data.valid_data_path=[a]"}, "without train_data_path"},
      {"split-unused", {"data.mock_data=false", "data.train_data_path=[a]", "data.split='1,1,1'"}, "leave split out"},
      {"split-syntax", {"data.split='9,-1,2'"}, "is not up to three shares"},
      {"split-syntax", {"data.split='0,0,0'"}, "is not up to three shares"},
      {"split-syntax", {"data.split='1,1,1,1'"}, "is not up to three shares"},
      {"split-syntax", {"data.split='most'"}, "is not up to three shares"},
      {"blend-weights", {"data.mock_data=false", "data.data_path=[-1, a]"}, "greater than 0"},
      {"blend-weights", {"data.mock_data=false", "data.data_path=[1, a, 0, b]"}, "weight 0 of b"},
      {"blend-weights", {"data.mock_data=false", "data.data_path=[0.3, a, 0.7]"}, "looks like a weight"},
      {"tokenizer-files", {"data.tokenizer_type=HuggingFaceTokenizer"}, "needs tokenizer_model"},
      {"tokenizer-files", {"data.tokenizer_type=GPT2BPETokenizer", "data.vocab_file=v"}, "vocab_file and merge_file"},
      {"tokenizer-unused-files", {"data.tokenizer_model=x"}, "there is no tokenizer_type"},
      {"tokenizer-unused-files", {"data.tokenizer_type=ByteTokenizer", "data.merge_file=x"}, "there is ByteTokenizer"},
      {"vocabulary", {"model.vocab_size=null"}, "how many token ids"},
      {"vocabulary", {"model.vocab_size=null", "data.tokenizer_type=NullTokenizer"}, "needs model.vocab_size"},
      {"document-end", {"data.eod_mask_loss=true"}, "eod_mask_loss needs"},
      {"document-end", {"data.reset_position_ids=true"}, "reset_position_ids needs"},
      {"document-end", {"data.reset_attention_mask=true"}, "reset_attention_mask needs"},
  };
}

std::vector<Case> all_cases() {
  std::vector<Case> cases = model_cases();
  for (const Case& c : run_cases()) cases.push_back(c);
  for (const Case& c : data_cases()) cases.push_back(c);
  return cases;
}

class SoundFile {
 public:
  explicit SoundFile(const std::string& text = test::kSound) { std::ofstream(path_) << text; }
  ~SoundFile() { std::filesystem::remove(path_); }
  std::string path() const { return path_; }

 private:
  // Cases run side by side in processes of their own.
  std::string path_ =
      (std::filesystem::temp_directory_path() / str_cat("megatron_rules_test_", ::getpid(), ".yaml")).string();
};

}  // namespace

TEST_CASE("the sound configuration breaks no rule") {
  const LoadedConfig loaded = load_config_text(test::kSound, "sound");
  CHECK(loaded.config.model.kv_channels == 16);
  CHECK_NOTHROW(validate(loaded.config));
}

TEST_CASE("tensor and data parallelism are allowed, and their resolved.yaml reads back") {
  const SoundFile file;
  for (const int64_t world : {2, 4, 8}) {
    LoadOptions options;
    options.world_size = world;
    const LoadedConfig loaded = load_config(
        {file.path()}, {"parallel.tensor_model_parallel_size=2", "parallel.sequence_parallel=true"}, options);
    CHECK(loaded.config.parallel.expert_tensor_parallel_size == 2);
    CHECK(load_config_text(to_yaml(loaded.config), "resolved.yaml", options).config == loaded.config);
  }
}

TEST_CASE("tp_comm_overlap says in how many pieces, or why it does nothing") {
  const SoundFile file;
  LoadOptions options;
  options.world_size = 2;
  const auto loaded = [&](std::vector<std::string> sets) {
    for (const char* set : {"parallel.tensor_model_parallel_size=2", "parallel.tp_comm_overlap=true"}) {
      sets.emplace_back(set);
    }
    return load_config({file.path()}, sets, options);
  };
  const auto says = [](const LoadedConfig& config, const std::string& text) {
    return std::any_of(config.decisions.begin(), config.decisions.end(),
                       [&](const std::string& line) { return line.find(text) != std::string::npos; });
  };
  const auto sizes = [](int64_t length, int64_t batch) {
    return std::vector<std::string>{"model.seq_length=" + std::to_string(length), "training.global_batch_size=96",
                                    "model.max_position_embeddings=" + std::to_string(length),
                                    "training.micro_batch_size=" + std::to_string(batch)};
  };
  struct Example {
    int64_t length, batch, pieces;
  };
  for (const Example& e :
       {Example{8192, 1, 4}, Example{4096, 1, 4}, Example{3072, 1, 3}, Example{2048, 1, 2}, Example{1024, 2, 2},
        Example{1024, 8, 4}, Example{6144, 1, 4}, Example{4098, 1, 1}, Example{1024, 1, 1}, Example{8191, 1, 1}}) {
    const LoadedConfig config = loaded(sizes(e.length, e.batch));
    INFO(e.length << " x " << e.batch);
    CHECK(tp_overlap_pieces(config.config) == e.pieces);
    CHECK(says(config, e.pieces > 1 ? str_cat(e.pieces, " pieces of ", e.length * e.batch / e.pieces, " tokens")
                                    : "has no effect"));
  }
  Config off = loaded(sizes(8192, 1)).config;
  off.parallel.tp_comm_overlap = false;
  CHECK(tp_overlap_pieces(off) == 1);
}

TEST_CASE("every rule refuses what it is there for, naming its first key") {
  const SoundFile file;
  const std::vector<Rule> table = rules();
  for (const Case& c : all_cases()) {
    INFO(c.rule << ": " << join(c.sets, " "));
    LoadOptions lenient;
    lenient.check_rules = false;
    lenient.world_size = c.world_size;
    const LoadedConfig loaded = load_config({file.path()}, c.sets, lenient);
    std::set<std::string> derived;
    for (const auto& [key, origin] : loaded.origins) {
      if (origin == "derived") derived.insert(key);
    }
    bool found = false;
    for (const RuleFailure& failure : broken_rules({loaded.config, c.world_size, derived})) {
      if (failure.rule == c.rule) found = test::contains(failure.message, c.message);
    }
    CHECK(found);
    LoadOptions strict;
    strict.world_size = c.world_size;
    const std::string message = error_of([&] { load_config({file.path()}, c.sets, strict); });
    CHECK(contains(message, c.message));
  }
}

TEST_CASE("every rule has a case") {
  std::set<std::string> triggered;
  for (const Case& c : all_cases()) triggered.insert(c.rule);
  std::set<std::string> known;
  for (const Rule& rule : rules()) {
    INFO(rule.name);
    CHECK(triggered.count(rule.name) == 1);
    CHECK(known.insert(rule.name).second);
  }
  for (const std::string& rule : triggered) {
    INFO(rule);
    CHECK(known.count(rule) == 1);
  }
}

TEST_CASE("the keys of every rule exist") {
  Config config;
  for (const Rule& rule : rules()) {
    for (const std::string& key : rule.keys) {
      INFO(rule.name << " " << key);
      CHECK(find_field(config, key).has_value());
    }
  }
}

TEST_CASE("rules about keys that are wrong already stay silent") {
  const std::string message = error_of(
      [] { load_config_text(std::string(test::kSound) + "precision: {params_dtype: fp99, loss_scale: 3}\n", "x"); });
  CHECK(contains(message, "has 1 error\n"));
  CHECK(contains(message, "fp99"));
}

TEST_CASE("blends and splits") {
  CHECK(parse_blend({"0.3", "a", "0.7", "b"}).size() == 2);
  CHECK(parse_blend({"0.3", "a", "0.7", "b"})[1].weight == 0.7);
  CHECK(parse_blend({"a", "b"}).size() == 2);
  CHECK_FALSE(parse_blend({"a", "b"})[0].weight);
  CHECK(parse_blend({"0.3 a  0.7 b"}).size() == 2);
  CHECK(parse_blend({"0.3 a  0.7 b"})[1].prefix == "b");
  CHECK(parse_blend({"my data"})[0].prefix == "my data");  // a prefix may hold blanks
  CHECK(parse_blend({"1", "my data"})[0].prefix == "my data");
  CHECK(blend_problem(parse_blend({".inf", "a"})));
  CHECK_FALSE(blend_problem(parse_blend({"0.3", "a", "0.7", "b"})));
  CHECK(parse_split("98,2,0").value() == std::vector<double>{0.98, 0.02, 0.0});
  CHECK(parse_split("1").value() == std::vector<double>{1.0, 0.0, 0.0});
}

TEST_CASE("validate judges ranges of a configuration made by hand") {
  Config config = load_config_text(test::kSound, "sound").config;
  config.optimizer.adam_beta1 = 1.5;
  CHECK(contains(error_of([&] { validate(config); }), "adam_beta1"));
}

TEST_CASE("files are looked for only on demand, and named") {
  const SoundFile file;
  const Config config =
      load_config({file.path()}, {"data.mock_data=false", "data.data_path=[0.5, /nowhere/a, 0.5, /nowhere/b]"}).config;
  const std::vector<std::string> missing = missing_files(config);
  REQUIRE(missing.size() == 4);
  CHECK(missing[0] == "data.data_path: /nowhere/a.idx does not exist");
}

}  // namespace megatron
