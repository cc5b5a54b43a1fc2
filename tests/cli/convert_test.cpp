// `megatron convert`, and what other programs' models are good for without it.
#include <filesystem>

#include "base/file_io.h"
#include "tests/catch.h"
#include "tests/cli/command.h"

namespace megatron::testing {
namespace {

const std::string kLlama3 = std::string(MEGATRON_SOURCE_DIR) + "/tests/golden/huggingface/llama3";

void refused(const Outcome& outcome, int code, const std::vector<std::string>& parts) {
  INFO(outcome.err);
  CHECK(outcome.code == code);
  for (const std::string& part : parts) CHECK(has(outcome.err, part));
}

/// The same greedy continuation, whatever the model lies in.
std::string text_of(const Workspace& work, const std::string& load, const std::string& prompt) {
  return work.succeed({"generate", "--load", load, "--prompt", prompt, "--greedy", "--num-tokens-to-generate", "8",
                       "--device", "cpu", "--ignore-eod"});
}

/// The same model as tests/golden/huggingface/llama3.
const char kLlama3Yaml[] =
    "run: {dir: out/tuned, device: cpu}\n"
    "model: {num_layers: 3, hidden_size: 48, ffn_hidden_size: 80, num_attention_heads: 6, num_query_groups: 2, "
    "kv_channels: 8, seq_length: 24, vocab_size: 97, position_embedding_type: rope, rotary_base: 500000, "
    "use_rope_scaling: true, normalization: RMSNorm, swiglu: true, add_bias_linear: false, hidden_dropout: 0, "
    "attention_dropout: 0}\n"
    "data: {mock_data: true, tokenizer_type: NullTokenizer}\n"
    "training: {micro_batch_size: 2, train_iters: 2}\n"
    "optimizer: {lr: 0.001}\n"
    "logging: {log_interval: 1, tensorboard: false}\n";

TEST_CASE("convert: a run goes to Hugging Face and GGUF and back, tokenizer included, and says the same everywhere") {
  const Workspace work;
  work.prepare();
  work.succeed({"pretrain", "--config", "tiny.yaml", "--set", "training.train_iters=5"});
  const std::string prompt = "The quick", expected = text_of(work, "out/tiny", prompt);
  const Outcome there = work.run({"convert", "--from", "out/tiny", "--to", "hf", "--verify"});
  CHECK(there.code == 0);
  CHECK(has(there.err, "(checkpoint) to hf (huggingface)"));
  CHECK(has(there.err, "verified on the CPU"));
  CHECK(text_of(work, "hf", prompt) == expected);
  work.succeed({"convert", "--from", "hf", "--to", "x.gguf", "--verify"});
  CHECK(text_of(work, "x.gguf", prompt) == expected);
  work.succeed({"convert", "--from", "x.gguf", "--to", "back", "--verify"});
  CHECK(text_of(work, "back", prompt) == expected);
  CHECK(work.read("back/iter_0000000/tokenizer.json") == work.read("data/tokenizer.json"));
}

TEST_CASE("convert: a SentencePiece tokenizer goes with its model to Hugging Face and GGUF and back") {
  const Workspace work;
  const std::string model = std::string(MEGATRON_SOURCE_DIR) + "/tests/tokenizer/golden/sentencepiece/llama.model";
  std::string yaml = kLlama3Yaml;
  yaml.replace(yaml.find("NullTokenizer"), 13, "Llama2Tokenizer, tokenizer_model: " + model);
  yaml.replace(yaml.find("vocab_size: 97, "), 16, "");
  work.write("a.yaml", yaml);
  work.succeed({"pretrain", "--config", "a.yaml", "--set", "training.train_iters=3"});
  CHECK(work.read("out/tuned/checkpoints/iter_0000003/tokenizer.model") == read_file(model));
  const std::string prompt = "The ship", expected = text_of(work, "out/tuned", prompt);
  work.succeed({"convert", "--from", "out/tuned", "--to", "hf", "--verify"});
  CHECK(work.read("hf/tokenizer.model") == read_file(model));
  CHECK(has(work.read("hf/tokenizer_config.json"), "LlamaTokenizer"));
  CHECK(text_of(work, "hf", prompt) == expected);
  work.succeed({"convert", "--from", "hf", "--to", "x.gguf", "--verify"});
  CHECK(text_of(work, "x.gguf", prompt) == expected);
  work.succeed({"convert", "--from", "x.gguf", "--to", "back", "--verify"});
  CHECK(text_of(work, "back", prompt) == expected);
  const auto ids = [&](const std::string& path) {
    return work.succeed({"tokenizer", "encode", "--tokenizer-model", path, "--text", " a  caf\u00e9 42 \n"});
  };
  CHECK(ids("back/iter_0000000/tokenizer.model") == ids(model));
  refused(work.run({"tokenizer", "encode", "--tokenizer-model", "hf", "--text", "a"}), 3, {"Llama2Tokenizer"});
  std::string damaged = read_file(model);
  damaged.resize(damaged.size() / 2);
  work.write("t.model", damaged);
  refused(work.run({"tokenizer", "encode", "--tokenizer-model", "t.model", "--text", "a"}), 3,
          {"t.model: byte ", "bytes are expected"});
}

TEST_CASE("convert: finetuning starts from the weights of another program's model") {
  const Workspace work;
  work.write("a.yaml", kLlama3Yaml);
  work.succeed({"convert", "--from", kLlama3, "--to", "ours"});
  work.succeed({"convert", "--from", kLlama3, "--to", "x.gguf"});
  std::map<int64_t, std::string> expected;
  for (const std::string& load : {kLlama3, std::string("ours"), std::string("x.gguf")}) {
    CAPTURE(load);
    std::filesystem::remove_all(work.path("out"));
    const Outcome run = work.run({"finetune", "--config", "a.yaml", "--set", "checkpoint.load=" + load});
    INFO(run.err);
    REQUIRE(run.code == 0);
    CHECK(has(run.err, "loaded the weights of " + load));
    CHECK_FALSE(has(run.err, "differ:"));
    const auto metrics = comparable_metrics(work.read("out/tuned/metrics.jsonl"));
    REQUIRE(metrics.size() == 3);  // with the evaluation before the first step
    if (expected.empty()) expected = metrics;
    CHECK(metrics == expected);
  }
  // The same command goes on from the run's own checkpoint.
  const Outcome again = work.run({"finetune", "--config", "a.yaml", "--set", "checkpoint.load=" + kLlama3, "--set",
                                  "training.train_iters=3", "--set", "optimizer.override_opt_param_scheduler=true"});
  CHECK(has(again.err, "resumed from out/tuned/checkpoints/iter_0000002"));
  const Outcome other = work.run({"pretrain", "--config", "a.yaml", "--set", "checkpoint.load=" + kLlama3, "--set",
                                  "model.rotary_base=10000", "--set", "run.dir=out/other"});
  CHECK(other.code == 0);
  CHECK(has(other.err, "differ:\n  rotary_base: 5.0e+05 and 10000.0"));
  refused(work.run({"finetune", "--config", "a.yaml", "--set", "checkpoint.load=" + kLlama3, "--set",
                    "model.hidden_size=64", "--set", "run.dir=out/wide"}),
          3, {"embedding.word_embeddings.weight", "[97, 48]", "[97, 64]", "section model"});
}

TEST_CASE("convert: what it cannot do is refused, and leaves nothing behind") {
  const Workspace work;
  refused(work.run({"convert", "--from", "none", "--to", "x"}), 3, {"--from none", "no such folder"});
  std::filesystem::create_directories(work.path("empty"));
  refused(work.run({"convert", "--from", "empty", "--to", "x"}), 3, {"empty", "no config.json", "GGUF"});
  refused(work.run({"convert", "--from", kLlama3, "--to", "empty", "--format", "huggingface"}), 2, {"exists already"});
  refused(work.run({"convert", "--from", kLlama3, "--to", "x", "--format", "other"}), 2, {"--format"});
  refused(work.run({"convert", "--from", kLlama3, "--to", "x", "--dtype", "q8_0"}), 2, {"only GGUF files have it"});
  refused(work.run({"convert", "--from", kLlama3, "--to", "x.gguf", "--dtype", "fp16"}), 2, {"fp32, bf16 or q8_0"});
  refused(work.run({"convert", "--from", kLlama3, "--to", "x", "--ckpt-step", "3"}), 2, {"has no steps"});
  CHECK_FALSE(work.exists("x"));
  work.succeed({"convert", "--from", kLlama3, "--to", "x"});
  refused(work.run({"convert", "--from", kLlama3, "--to", "x"}), 2, {"holds checkpoints already"});
  work.write("y.gguf", "GGUF and no more");
  refused(work.run({"generate", "--load", "y.gguf", "--prompt", "a"}), 3, {"y.gguf: byte 4", "version"});
  // Keys that we do not know are listed.
  std::filesystem::copy(kLlama3, work.path("strange"));
  std::string config = work.read("strange/config.json");
  work.write("strange/config.json", "{\"residual_scale\": 2, " + config.substr(1));
  CHECK(has(work.run({"convert", "--from", "strange", "--to", "z"}).err, "residual_scale"));
}

}  // namespace
}  // namespace megatron::testing
