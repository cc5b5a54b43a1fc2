// configs/ without models: each file, and the one that stands for a script of Megatron-LM.
#include <filesystem>

#include "base/strings.h"
#include "config/megatron_args.h"
#include "example.h"
#include "tests/catch.h"

namespace megatron {
namespace {

namespace fs = std::filesystem;
using test::contains;

std::string preset(const std::string& file) {
  return std::string(MEGATRON_SOURCE_DIR) + "/configs/" + file;
}

/// Options of examples/llama/train_llama3_8b_h100_fp8.sh in its bf16 form with mock data, without those that have no
/// counterpart.
constexpr const char* kScript =
    "--num-layers 32 --hidden-size 4096 --ffn-hidden-size 14336 --num-attention-heads 32 --group-query-attention "
    "--num-query-groups 8 --kv-channels 128 --seq-length 8192 --max-position-embeddings 8192 "
    "--position-embedding-type rope --rotary-base 1000000 --rotary-percent 1.0 --attention-dropout 0.0 "
    "--hidden-dropout 0.0 --swiglu --normalization RMSNorm --init-method-std 0.0134 --apply-layernorm-1p "
    "--untie-embeddings-and-output-weights --disable-bias-linear --micro-batch-size 1 --global-batch-size 128 "
    "--train-samples 1953125000 --lr-decay-samples 1949218748 --lr-warmup-samples 3906252 --lr 0.00015 "
    "--min-lr 0.00001 --decoupled-lr 5.0e-4 --decoupled-min-lr 4.5e-5 --lr-decay-style cosine --clip-grad 1.0 "
    "--weight-decay 0.1 --adam-beta1 0.9 --adam-beta2 0.95 --bf16 --calculate-per-token-loss "
    "--exit-duration-in-mins 235 --tensor-model-parallel-size 1 --context-parallel-size 1 --mock-data "
    "--tokenizer-type NullTokenizer --vocab-size 128256 --split 99,1,0 --num-workers 1 --log-interval 1 "
    "--eval-iters 32 --eval-interval 100 --save-interval 1000";

}  // namespace

TEST_CASE("every configuration in configs/ is valid on its number of ranks, and the pieces below base/ read") {
  int found = 0;
  for (const auto& entry : fs::recursive_directory_iterator(preset(""))) {
    if (entry.path().extension() != ".yaml") continue;
    ++found;
    LoadOptions options;
    options.check_rules = !contains(entry.path().string(), "/configs/base/");
    if (contains(entry.path().string(), "/configs/meshes/")) {  // gpt3_175b_1024.yaml is for 1024 ranks
      const std::string stem = entry.path().stem().string();
      options.world_size = std::stoll(stem.substr(stem.rfind('_') + 1));
    }
    INFO(entry.path().string());
    CHECK_NOTHROW(load_config({entry.path().string()}, {}, options));
  }
  CHECK(found >= 30);
}

TEST_CASE("llama3-8b-megatron.yaml is what from-megatron-args makes of the script") {
  const TranslatedArgs translated = translate_megatron_args(split_words(kScript));
  INFO(translated.yaml << join(translated.not_supported, "\n") << join(translated.no_counterpart, "\n"));
  CHECK(translated.not_supported.empty());
  CHECK(translated.no_counterpart.size() == 1);  // --group-query-attention: the number of groups says it
  Config expected = load_config_text(translated.yaml, "script").config;
  const Config config = load_config({preset("llama3-8b-megatron.yaml")}, {}).config;
  expected.run.dir = config.run.dir;
  expected.checkpoint.save = config.checkpoint.save;
  expected.logging.tensorboard_dir = config.logging.tensorboard_dir;
  INFO(format_changes(resume_diff(expected, config)));
  CHECK(config == expected);
}

TEST_CASE("the changes that comments of presets name are valid") {
  const auto with = [](const char* file, const std::vector<std::string>& sets) {
    return load_config({preset(file)}, sets).config;
  };
  const Config mistral =
      with("mistral_7b.yaml", {"model.window_size=[]", "model.rotary_base=1000000", "model.vocab_size=32768"});
  CHECK(mistral.model.window_size.empty());
  for (const char* file : {"llama3_8b.yaml", "llama3_70b.yaml"}) {
    CHECK(with(file, {"model.use_rope_scaling=true", "model.max_position_embeddings=131072"}).model.use_rope_scaling);
  }
  const Config text =
      with("tiny.yaml", {"data.mock_data=false", "data.data_path=[data/text_document]",
                         "data.tokenizer_type=HuggingFaceTokenizer", "data.tokenizer_model=data/tokenizer.json"});
  CHECK(text.data.data_path.size() == 1);
}

TEST_CASE("presets print decisions only where something was reckoned") {
  CHECK(load_config({preset("llama3-8b-megatron.yaml")}, {}).decisions.empty());
  const std::vector<std::string> gpt = load_config({preset("gpt3_175b.yaml")}, {}).decisions;
  CHECK(gpt == std::vector<std::string>{"model.ffn_hidden_size = 49152: 4 * hidden_size",
                                        "model.kv_channels = 128: hidden_size / num_attention_heads",
                                        "model.add_qkv_bias = true: add_bias_linear puts biases in all linear layers"});
  CHECK(load_config({preset("tiny.yaml")}, {}).decisions ==
        std::vector<std::string>{"model.kv_channels = 32: hidden_size / num_attention_heads"});
}

}  // namespace megatron
