// The files of configs/: each is valid alone, has the published number of parameters, can be planned, and its kind of
// model trains on made-up tokens.
#include <sys/resource.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <set>

#include "kernels/rope/rope.h"
#include "tests/catch.h"
#include "tests/train/trainer_helpers.h"
#include "train/plan_report.h"
#include "train/programs.h"
#include "train/trainer.h"

namespace megatron::test {
namespace {

struct Preset {
  const char* file;
  int64_t parameters;
  double paper = 0;  ///< the rounded number that a paper gives, where the exact one is not published
};

/// Where the numbers come from. GPT-2, LLaMA, Qwen2.5 and Mistral: the sum of all tensors of the checkpoint on Hugging
/// Face, as its model page and the index of its safetensors files give it (tied weights once). GPT-3 was not published:
/// 12 L h^2 + 13 L h + (V + s) h + 2 h with the table's sizes, V 50257 and s 2048, beside n_params of table 2.1 in
/// arXiv:2005.14165. tiny, quickstart and simple are our own: V h (1 or 2) + L (h d (2 n + 2 g) + 3 h F + 2 h) + h.
constexpr Preset kPresets[] = {
    {"gpt2_124m.yaml", 124'439'808},
    {"gpt2_350m.yaml", 354'823'168},
    {"gpt2_774m.yaml", 774'030'080},
    {"gpt2_1558m.yaml", 1'557'611'200},
    {"gpt3_125m.yaml", 125'226'240, 125e6},
    {"gpt3_350m.yaml", 355'871'744, 350e6},
    {"gpt3_760m.yaml", 760'300'032, 760e6},
    {"gpt3_1.3b.yaml", 1'315'723'264, 1.3e9},
    {"gpt3_2.7b.yaml", 2'651'553'280, 2.7e9},
    {"gpt3_6.7b.yaml", 6'658'404'352, 6.7e9},
    {"gpt3_13b.yaml", 12'853'386'240, 13e9},
    {"gpt3_175b.yaml", 174'604'259'328, 175e9},
    {"llama3_8b.yaml", 8'030'261'248},
    {"llama3-8b-megatron.yaml", 8'030'261'248},
    {"llama3_70b.yaml", 70'553'706'496},
    {"llama3_405b.yaml", 405'853'388'800},
    {"llama3.2_1b.yaml", 1'235'814'400},
    {"llama3.2_3b.yaml", 3'212'749'824},
    {"qwen2.5_0.5b.yaml", 494'032'768},
    {"qwen2.5_1.5b.yaml", 1'543'714'304},
    {"qwen2.5_7b.yaml", 7'615'616'512},
    {"mistral_7b.yaml", 7'241'732'096},
    {"tiny.yaml", 2'032'768},
    {"quickstart.yaml", 1'836'160},
    {"simple.yaml", 90'432},
};

std::string path_of(const std::string& file) {
  return std::string(MEGATRON_SOURCE_DIR) + "/configs/" + file;
}

/// quickstart.yaml takes the vocabulary from a tokenizer that scripts/quickstart.sh trains to this size.
std::vector<std::string> settings_of(const std::string& file) {
  if (file == "quickstart.yaml") return {"model.vocab_size=4096"};
  return {};
}

Config config_of(const std::string& file) {
  return load_config({path_of(file)}, settings_of(file)).config;
}

TrainPrograms programs_of(const Config& config) {
  return make_train_programs(config, config.model.vocab_size.value(), ParallelContext());
}

int64_t peak_resident_bytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<int64_t>(usage.ru_maxrss) * 1024;
}

/// The same kind of model, two layers and a few channels, for two steps.
std::vector<std::string> shrunken(const Config& config) {
  std::vector<std::string> sets = {"run.device=cpu",
                                   "run.cpu_threads=1",
                                   "model.num_layers=2",
                                   "model.hidden_size=24",
                                   "model.ffn_hidden_size=32",
                                   "model.num_attention_heads=4",
                                   "model.num_query_groups=2",
                                   "model.kv_channels=8",
                                   "model.seq_length=16",
                                   "model.max_position_embeddings=16",
                                   "model.vocab_size=61",
                                   "training.micro_batch_size=1",
                                   "training.global_batch_size=2",
                                   "training.eval_interval=null",
                                   "training.eval_iters=0",
                                   "logging.tensorboard=false",
                                   "logging.log_level=error"};
  const bool samples = config.training.train_samples.has_value();
  const std::string unit = samples ? "samples" : "iters", length = samples ? "4" : "2";
  sets.push_back("training.train_" + unit + "=" + length);
  sets.push_back("optimizer.lr_warmup_" + unit + "=0");
  sets.push_back("optimizer.lr_decay_" + unit + "=" + length);
  if (!config.model.window_size.empty()) sets.push_back("model.window_size=[5, 0]");
  if (config.training.recompute_num_layers) sets.push_back("training.recompute_num_layers=1");
  return sets;
}

}  // namespace

TEST_CASE("presets: every file of configs/ is in the table, and the table has no other") {
  std::set<std::string> found, listed;
  for (const auto& entry : std::filesystem::directory_iterator(path_of(""))) {
    if (entry.path().extension() == ".yaml") found.insert(entry.path().filename().string());
  }
  for (const Preset& preset : kPresets) listed.insert(preset.file);
  CHECK(found == listed);
}

TEST_CASE("presets: each has the published number of parameters, and plans in little time and memory") {
  const int64_t before = peak_resident_bytes();
  const auto begin = std::chrono::steady_clock::now();
  for (const Preset& preset : kPresets) {
    CAPTURE(preset.file);
    const LoadedConfig loaded = load_config({path_of(preset.file)}, settings_of(preset.file));
    const TrainPrograms programs = programs_of(loaded.config);
    CHECK(parameter_count(programs.spec) == preset.parameters);
    if (preset.paper > 0) CHECK(static_cast<double>(preset.parameters) == Approx(preset.paper).epsilon(0.02));
    const MemoryReport memory = memory_report(programs);
    const int64_t bytes = loaded.config.precision.params_dtype == "bf16" ? 18 : 16;  // a parameter with its AdamW state
    CHECK(memory.allocated() > bytes * preset.parameters);
    const std::string text = describe_plan(loaded.config, programs, loaded.decisions);
    CHECK(text.find(std::to_string(preset.parameters)) != std::string::npos);
  }
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(20));
  // The 175 billion parameters alone are 350 GB: a plan holds none of them.
  CHECK(peak_resident_bytes() - before < int64_t{256} << 20);
}

TEST_CASE("presets: those that promise to fit on one GPU of 80 GB do") {
  for (const char* file : {"gpt2_124m", "gpt2_350m", "gpt2_774m", "gpt2_1558m", "gpt3_125m", "gpt3_350m", "gpt3_760m",
                           "gpt3_1.3b", "gpt3_2.7b", "llama3.2_1b", "llama3.2_3b", "qwen2.5_0.5b", "qwen2.5_1.5b"}) {
    CAPTURE(file);
    CHECK(memory_report(programs_of(config_of(std::string(file) + ".yaml"))).allocated() < int64_t{72} << 30);
  }
}

TEST_CASE("presets: what sets the families apart reaches the model") {
  const auto first = [](const char* file) {
    const Config config = config_of(file);
    return make_model_spec(config, *config.model.vocab_size).layers.at(0);
  };
  const LayerSpec gpt = first("gpt2_124m.yaml");
  CHECK(gpt.norm.kind == NormSpec::Kind::kLayerNorm);
  CHECK(gpt.norm.epsilon == 1e-5);
  CHECK(gpt.mlp.activation == ActivationKind::kGeluTanh);
  CHECK(gpt.attention.qkv_bias);
  CHECK_FALSE(gpt.attention.rope);
  CHECK(gpt.attention.dropout == 0.1);

  const LayerSpec llama = first("llama3_8b.yaml");
  CHECK(llama.norm.kind == NormSpec::Kind::kRmsNorm);
  CHECK(llama.attention.groups == 8);
  CHECK_FALSE(llama.attention.qkv_bias);
  CHECK(llama.mlp.gated);
  CHECK(llama.attention.rope.value().base == 500000);
  CHECK_FALSE(llama.attention.rope->llama3.on);
  CHECK(first("llama3-8b-megatron.yaml").norm.zero_centered);
  CHECK(first("llama3-8b-megatron.yaml").attention.rope.value().base == 1000000);
  CHECK(first("llama3_405b.yaml").attention.rope.value().llama3.factor == 8);

  const LayerSpec qwen = first("qwen2.5_7b.yaml");
  CHECK(qwen.attention.qkv_bias);
  CHECK_FALSE(qwen.attention.out_bias);
  CHECK_FALSE(qwen.mlp.bias);
  CHECK(qwen.norm.epsilon == 1e-6);

  // A window of 4096 tokens counts the token itself.
  CHECK(first("mistral_7b.yaml").attention.window_left == 4095);
  CHECK(first("mistral_7b.yaml").attention.window_right <= 0);
}

TEST_CASE("presets: LLaMA 3.2 stretches its low frequencies by 32 and blends those between") {
  const Config config = config_of("llama3.2_1b.yaml");
  const RopeSpec rope = make_model_spec(config, *config.model.vocab_size).layers.at(0).attention.rope.value();
  const RopeTable table = rope_table(rope);
  REQUIRE(table.inv_freq.size() == 32);
  int kept = 0, blended = 0, stretched = 0;
  for (size_t i = 0; i < 32; ++i) {
    const double f = std::pow(500000.0, -static_cast<double>(i) / 32);
    const double turns = 8192 * f / (2 * 3.14159265358979323846);  // within the original context
    const double smooth = (turns - 1) / (4 - 1);
    double expected = (1 - smooth) * f / 32 + smooth * f;
    if (turns > 4) expected = f;
    if (turns < 1) expected = f / 32;
    (turns > 4 ? kept : (turns < 1 ? stretched : blended)) += 1;
    CHECK(table.inv_freq[i] == Approx(expected).epsilon(1e-12));
  }
  CHECK(kept > 0);
  CHECK(blended > 0);
  CHECK(stretched > 0);
  CHECK(table.concentration == 1.0);
}

TEST_CASE("presets: each kind trains on made-up tokens, as declared but for its size") {
  for (const Preset& preset : kPresets) {
    const Config whole = config_of(preset.file);
    if (!whole.data.mock_data) continue;
    CAPTURE(preset.file);
    const Scratch scratch;
    std::vector<std::string> sets = shrunken(whole);
    sets.push_back("run.dir=" + scratch.path("run"));
    REQUIRE(run_training(load_config({path_of(preset.file)}, sets), {}) == ExitCode::kDone);
    const auto metrics = read_metrics(scratch.path("run"));
    REQUIRE(metrics.size() == 2);
    for (const auto& [iteration, line] : metrics) {
      CHECK(line.lm_loss == Approx(std::log(61.0)).margin(0.3));
      CHECK(line.grad_norm > 0);
      CHECK_FALSE(line.skipped);
    }
  }
}

}  // namespace megatron::test
