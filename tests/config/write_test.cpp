#include <nlohmann/json.hpp>

#include <algorithm>
#include <fstream>
#include <map>
#include <sstream>
#include <type_traits>

#include "base/strings.h"
#include "config/derive.h"
#include "config/describe.h"
#include "config/field.h"
#include "config/layer_config.h"
#include "config/load.h"
#include "config/megatron_args.h"
#include "example.h"
#include "tests/catch.h"

namespace megatron {
namespace {

using test::contains;
using test::error_of;

Config sound() {
  return load_config_text(test::kSound, "sound").config;
}

/// Gives a field a legal value other than its default.
void change(const Field& field) {
  std::visit(
      [&field](auto* value) {
        using T = std::remove_pointer_t<decltype(value)>;
        const auto text = [&] {
          if (field.choices.empty()) return std::string("new: \"text\" # \xc3\xa9\n\t");
          return field.choices[0] == value_text(field.ref) ? field.choices.back() : field.choices[0];
        };
        if constexpr (std::is_same_v<T, bool>) *value = !*value;
        if constexpr (std::is_same_v<T, int64_t>) *value = *value + 2;
        if constexpr (std::is_same_v<T, double>) {
          *value = field.max <= 1 ? *value / 3 + 0.25 : *value * 3 + 1.0 / 3;
        }
        if constexpr (std::is_same_v<T, std::string>) *value = text();
        if constexpr (std::is_same_v<T, std::vector<int64_t>>) *value = {7, 1};
        if constexpr (std::is_same_v<T, std::vector<std::string>>) *value = {text(), text()};
        if constexpr (std::is_same_v<T, std::optional<bool>>) *value = !value->value_or(false);
        if constexpr (std::is_same_v<T, std::optional<int64_t>>) *value = 1234567890123;
        if constexpr (std::is_same_v<T, std::optional<double>>) *value = 1.0 / 3;
        if constexpr (std::is_same_v<T, std::vector<LayerOverride>>) {
          LayerOverride entry;
          entry.layers = "-1";
          entry.window_size = std::vector<int64_t>{};
          entry.rotary_base = 1e6;
          entry.normalization = "RMSNorm";
          entry.gated_linear_unit = false;
          *value = {entry, entry};
        }
      },
      field.ref);
}

}  // namespace

TEST_CASE("resolved YAML reads back to an equal configuration, whatever key is changed") {
  LoadOptions lenient;
  lenient.check_rules = false;
  const Config before = sound();
  CHECK(load_config_text(to_yaml(before), "resolved").config == before);
  Config names;
  for (const Section& section : sections(names)) {
    for (const Field& field : section.fields) {
      const std::string key = section.name + "." + field.name;
      INFO(key);
      if (field.choices.size() == 1) continue;
      Config changed = before;
      change(*find_field(changed, key));
      CHECK_FALSE(changed == before);
      REQUIRE(resume_diff(before, changed).size() == 1);
      CHECK(resume_diff(before, changed)[0].key == key);
      derive_defaults(changed);  // some keys have others in tow
      CHECK(load_config_text(to_yaml(changed), "resolved", lenient).config == changed);
    }
  }
}

TEST_CASE("an empty list that replaces a default stays empty") {
  Config config = sound();
  config.training.recompute_modules = {};
  LoadOptions lenient;
  lenient.check_rules = false;
  CHECK(load_config_text(to_yaml(config), "x", lenient).config.training.recompute_modules.empty());
}

TEST_CASE("every member of every section is declared") {
  Config config;
  const std::map<std::string, std::pair<void*, size_t>> address = {
      {"run", {&config.run, sizeof(RunConfig)}},
      {"model", {&config.model, sizeof(ModelConfig)}},
      {"parallel", {&config.parallel, sizeof(ParallelConfig)}},
      {"data", {&config.data, sizeof(DataConfig)}},
      {"training", {&config.training, sizeof(TrainingConfig)}},
      {"optimizer", {&config.optimizer, sizeof(OptimizerConfig)}},
      {"precision", {&config.precision, sizeof(PrecisionConfig)}},
      {"checkpoint", {&config.checkpoint, sizeof(CheckpointConfig)}},
      {"logging", {&config.logging, sizeof(LoggingConfig)}},
      {"profile", {&config.profile, sizeof(ProfileConfig)}},
      {"machine", {&config.machine, sizeof(MachineConfig)}}};
  for (const Section& section : sections(config)) {
    struct Extent {
      size_t begin, size, align;
      std::string name;
    };
    std::vector<Extent> extents;
    for (const Field& field : section.fields) {
      std::visit(
          [&](auto* value) {
            using T = std::remove_pointer_t<decltype(value)>;
            extents.push_back({reinterpret_cast<size_t>(value), sizeof(T), alignof(T), field.name});
          },
          field.ref);
    }
    const auto begin = reinterpret_cast<size_t>(address.at(section.name).first);
    if (extents.empty()) continue;
    // Members lie one behind the other: a hole wider than alignment asks for is a member that nobody declared.
    std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
    INFO(section.name);
    CHECK(extents.front().begin == begin);
    const size_t size = extents.back().begin + extents.back().size - begin;
    CHECK((size + 7) / 8 * 8 == address.at(section.name).second);
    for (size_t i = 1; i < extents.size(); ++i) {
      INFO(section.name << ": between " << extents[i - 1].name << " and " << extents[i].name);
      const size_t end = extents[i - 1].begin + extents[i - 1].size;
      const size_t align = extents[i].align;
      CHECK(extents[i].begin == (end + align - 1) / align * align);
    }
  }
}

TEST_CASE("every key has a text, and explain finds it by its full and its bare name") {
  Config config;
  for (const Section& section : sections(config)) {
    CHECK(contains(explain(section.name), section.doc));
    for (const Field& field : section.fields) {
      INFO(field.name);
      CHECK(field.doc.size() > 8);
      CHECK(field.doc.back() == '.');
      CHECK(contains(explain(section.name + "." + field.name), field.doc));
      if (field.name != "optimizer") CHECK(contains(explain(field.name), field.doc));  // also a section
    }
  }
  CHECK(contains(explain(""), "optimizer:"));
  CHECK(contains(explain("--disable-bias-linear"), "model.add_bias_linear"));
  CHECK(contains(explain("--num-experts"), "not supported yet"));
  CHECK(contains(explain("--no-rope-fusion"), "no counterpart"));
  CHECK(contains(explain("model.num_experts"), "not supported yet"));
  CHECK(contains(error_of([] { explain("num_layer"); }), "did you mean num_layers?"));
}

TEST_CASE("the schema is JSON, closed, and knows every key") {
  const nlohmann::json schema = nlohmann::json::parse(json_schema());
  CHECK(schema["additionalProperties"] == false);
  Config config;
  for (const Section& section : sections(config)) {
    const nlohmann::json& map = schema["properties"][section.name];
    CHECK(map["additionalProperties"] == false);
    CHECK(map["properties"].size() == section.fields.size());
    for (const Field& field : section.fields) CHECK(map["properties"][field.name]["description"] == field.doc);
  }
  const nlohmann::json& lr = schema["properties"]["optimizer"]["properties"]["lr"];
  CHECK(lr["type"] == "number");
  CHECK(lr["exclusiveMinimum"] == 0.0);
  CHECK(schema["properties"]["run"]["properties"]["device"]["enum"].size() == 3);
}

TEST_CASE("what a resume says about changes") {
  const Config before = sound();
  Config after = before;
  CHECK(resume_diff(before, after).empty());
  CHECK(format_changes({}).empty());
  after.training.train_iters = 200;
  after.model.hidden_size = 128;
  after.run.dir = "elsewhere";
  const std::vector<ConfigChange> changes = resume_diff(before, after);
  REQUIRE(changes.size() == 3);
  CHECK(changes[0].key == "run.dir");
  CHECK(changes[0].kind == ChangeKind::kIgnored);
  CHECK(changes[1].kind == ChangeKind::kRefused);
  CHECK(changes[2].kind == ChangeKind::kAllowed);
  CHECK(changes[2].saved == "100");
  CHECK(contains(format_changes(changes), "model.hidden_size: 64 -> 128  (refused"));
  Config only_path = before;
  only_path.run.dir = "elsewhere";
  CHECK(config_hash(only_path) == config_hash(before));
  CHECK(config_hash(after) != config_hash(before));
}

TEST_CASE("derived defaults") {
  Config config = sound();
  CHECK(config.model.ffn_hidden_size == 256);
  CHECK(config.model.num_query_groups == 4);
  CHECK(config.model.max_position_embeddings == 32);
  CHECK(config.model.activation_func == "gelu_tanh");
  CHECK(config.model.add_qkv_bias);
  CHECK(config.data.split == "1,1,1");
  CHECK(config.checkpoint.save == "out/checkpoints");
  const auto with = [](const std::string& more) { return load_config_text(test::kSound + more, "x").config; };
  CHECK(with("checkpoint: {save: a}").checkpoint.save == "a");
  CHECK(with("logging: {tensorboard: false}").logging.tensorboard_dir.empty());
  Config half;
  half.precision.params_dtype = "fp16";
  half.training.check_for_nan_in_loss_and_grad = true;
  Config half_constant = half;
  half_constant.precision.loss_scale = 8;
  derive_defaults(half);
  derive_defaults(half_constant);
  CHECK_FALSE(half.training.check_for_nan_in_loss_and_grad);
  CHECK(half_constant.training.check_for_nan_in_loss_and_grad);
  Config gated;
  gated.model.hidden_size = 4096;
  gated.model.swiglu = true;
  std::set<std::string> derived;
  const std::vector<std::string> lines = derive_defaults(gated, 1, &derived);
  CHECK(gated.model.ffn_hidden_size == 10880);
  CHECK(derived.count("model.ffn_hidden_size") == 1);
  CHECK(contains(join(lines, "\n"), "model.ffn_hidden_size = 10880"));
  CHECK(derive_defaults(gated, 1).size() <= 1);  // nothing but what must be said again
  Config batch;
  batch.training.micro_batch_size = 3;
  batch.parallel.tensor_model_parallel_size = 2;
  derive_defaults(batch, 8);
  CHECK(batch.training.global_batch_size == 12);
}

TEST_CASE("layers are numbered and patterns applied") {
  CHECK(parse_layers("0-2, 5,-1", 8) == std::vector<int64_t>{0, 1, 2, 5, 7});
  CHECK(parse_layers("all", 2) == std::vector<int64_t>{0, 1});
  CHECK(parse_layers("-2--1", 4) == std::vector<int64_t>{2, 3});
  Config config = load_config_text(std::string(R"(
model: {num_layers: 4, hidden_size: 64, num_attention_heads: 4, seq_length: 32, vocab_size: 300,
        position_embedding_type: rope, window_size: [7, 0], window_attn_skip_freq: 2, no_rope_freq: [0, 1, 0, 0],
        layers: [{layers: 1-3, ffn_hidden_size: 96}, {layers: 3, ffn_hidden_size: 32, window_size: [],
                  position_embedding_type: none, kv_channels: 4}, {layers: 0, window_size: [3, 0]}]}
data: {mock_data: true}
training: {micro_batch_size: 2, train_iters: 100}
optimizer: {lr: 0.001}
)"),
                                   "x")
                      .config;
  const LayerConfig first = layer_config(config.model, 0);
  CHECK(first.window_size == std::vector<int64_t>{3, 0});
  CHECK(first.rotary);
  CHECK(first.ffn_hidden_size == 256);
  CHECK(first.softmax_scale == 0.25);
  const LayerConfig second = layer_config(config.model, 1);
  CHECK(second.window_size.empty());  // every second layer is full
  CHECK_FALSE(second.rotary);
  CHECK(second.ffn_hidden_size == 96);
  CHECK(layer_config(config.model, 2).window_size == std::vector<int64_t>{7, 0});
  const LayerConfig last = layer_config(config.model, 3);
  CHECK(last.ffn_hidden_size == 32);
  CHECK_FALSE(last.rotary);
  CHECK(last.softmax_scale == 0.5);
  config.model.window_attn_skip_freq = {0, 1, 1, 0};
  CHECK(layer_config(config.model, 1).window_size == std::vector<int64_t>{7, 0});
  config.model.softmax_scale = 0.125;
  CHECK(layer_config(config.model, 3).softmax_scale == 0.125);
  CHECK(padded_vocab_size(config, 300) == 384);
}

TEST_CASE("origins stand behind the values") {
  const std::string text = show_with_origins(load_config_text(test::kSound, "sound"));
  CHECK(contains(text, "# sound:2:21"));
  CHECK(contains(text, "# derived"));
  CHECK(contains(text, "# default"));
}

TEST_CASE("a Megatron-LM command line becomes YAML that loads") {
  const std::vector<std::string> words = split_words(
      "python pretrain_gpt.py \\\n  --num-layers 4 --hidden_size 64 --num-attention-heads=4 --seq-length 32 # note\n"
      "--max-position-embeddings 32 --micro-batch-size 2 --global-batch-size 8 --train-iters 100 --lr 0.001 --swiglu "
      "--disable-bias-linear --use-rotary-position-embeddings --normalization RMSNorm --norm-epsilon 1e-6 --bf16 "
      "--data-path 0.3 'a b' 0.7 \"c\" --split 98,2,0 --tokenizer-type HuggingFaceTokenizer --tokenizer-model t.json "
      "--window-size \"(7, 0)\" --num-experts 8 --no-rope-fusion --no-load-rng --num-query-groups 2 "
      "--logging-level 20 --override-opt_param-scheduler --recompute-modules core_attn mlp --recompute-activations "
      "--exit-signal-handler");
  const TranslatedArgs result = translate_megatron_args(words);
  INFO(result.yaml);
  const Config config = load_config_text(result.yaml, "translated").config;
  CHECK(config.model.num_layers == 4);
  CHECK(config.model.swiglu);
  CHECK_FALSE(config.model.add_bias_linear);
  CHECK(config.model.position_embedding_type == "rope");
  CHECK(config.model.norm_epsilon == 1e-6);
  CHECK(config.model.window_size == std::vector<int64_t>{7, 0});
  CHECK(config.model.num_query_groups == 4);  // upstream ignores it without --group-query-attention
  CHECK(config.precision.params_dtype == "bf16");
  CHECK(config.data.data_path == std::vector<std::string>{"0.3", "a b", "0.7", "c"});
  CHECK(config.optimizer.override_opt_param_scheduler);
  CHECK_FALSE(config.training.calculate_per_token_loss);
  CHECK(config.training.recompute_modules == std::vector<std::string>{"core_attn", "mlp"});
  CHECK(contains(join(result.not_supported, "\n"), "--num-experts 8 (model.num_experts)"));
  CHECK(contains(join(result.no_counterpart, "\n"), "--no-rope-fusion"));
  CHECK_FALSE(config.checkpoint.load_rng);
  CHECK(contains(join(result.notes, "\n"), "--num-query-groups without"));
}

TEST_CASE("quirks of the Megatron-LM command line") {
  const auto yaml = [](const std::string& text) { return translate_megatron_args(split_words(text)).yaml; };
  CHECK(contains(yaml("--group-query-attention"), "num_query_groups: 1"));
  CHECK(contains(yaml("--group-query-attention --num-query-groups 2"), "num_query_groups: 2"));
  CHECK(contains(yaml("--disable-bias-linear"), "activation_func: gelu\n"));
  CHECK(contains(yaml("--no-bias-gelu-fusion"), "activation_func: gelu\n"));
  CHECK_FALSE(contains(yaml("--no-bias-gelu-fusion --swiglu"), "activation_func"));
  CHECK(contains(yaml("--calculate-per-token-loss"), "calculate_per_token_loss: true"));
  for (const char* text : {"--use-megatron-fsdp --data-parallel-sharding-strategy optim",
                           "--data-parallel-sharding-strategy optim --use-megatron-fsdp"}) {
    CHECK(contains(yaml(text), "data_parallel_sharding_strategy: optim\n"));
  }
  CHECK(contains(yaml("--use-megatron-fsdp"), "data_parallel_sharding_strategy: optim_grads_params\n"));
  CHECK(contains(yaml("--no-save-optim"), "save_optim: false"));
  CHECK(contains(yaml("--no-save-rng"), "save_rng: false"));
  CHECK(contains(join(translate_megatron_args({"--window-attn-skip-freq", "[1]*3+[0]"}).not_supported, ""),
                 "write it as a list"));
  CHECK(contains(join(translate_megatron_args({"--optimizer", "muon"}).not_supported, ""), "one of: adam, sgd"));
  const std::string message = error_of([] {
    translate_megatron_args({"--num-layer", "4", "--lr", "--hidden-size", "x"});
  });
  CHECK(contains(message, "unknown option --num-layer (did you mean --num-layers?)"));
  CHECK(contains(message, "--lr has no value"));
  CHECK(contains(message, "--hidden-size x: expected integer"));
  CHECK(contains(error_of([] { split_words("--data-path 'a"); }), "is not closed"));
}

TEST_CASE("the compiled-in table is the one in megatron_args.tsv") {
  std::ifstream file(std::string(MEGATRON_SOURCE_DIR) + "/src/config/megatron_args.tsv");
  REQUIRE(file);
  std::vector<std::vector<std::string>> rows;
  for (std::string line; std::getline(file, line);) {
    if (!line.empty() && line[0] != '#') rows.push_back(split(line, '\t'));
  }
  const std::vector<MegatronOption>& table = megatron_options();
  REQUIRE(rows.size() == table.size());
  CHECK(rows.size() > 800);
  for (size_t i = 0; i < rows.size(); ++i) {
    INFO(rows[i][0]);
    REQUIRE(rows[i].size() == 4);
    CHECK(rows[i][0] == table[i].options);
    CHECK(rows[i][1] == table[i].key);
    CHECK(rows[i][2] == std::string(1, table[i].values));
    CHECK(rows[i][3] == table[i].note);
  }
}

}  // namespace megatron
