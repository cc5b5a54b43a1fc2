// The commands that look, check and translate: they succeed and print what they promise.
#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/catch.h"
#include "tests/cli/command.h"

namespace megatron::testing {
namespace {

void prints(const std::string& text, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) {
    INFO("expected: " << part << "\nprinted: " << text.substr(0, 3000));
    CHECK(has(text, part));
  }
}

TEST_CASE("bench ops and bench comm write a machine file, from which plan reckons the time of a step") {
  const Workspace work;
  work.prepare();
  const auto bench = [&](const std::string& ops) {
    return work.succeed({"bench", "ops", "--mode", "perf", "--seconds", "0.001", "--threads", "1", "--dtype", "fp32",
                         "--op", ops, "--machine", "machine.yaml"});
  };
  prints(bench("linear"), {"an empty operation", "linear_dgrad fp32 ", "3 operations, products at up to "});
  prints(bench("rmsnorm"), {"5 operations, "});  // what was measured before stays
  const std::string file = work.read("machine.yaml");
  prints(file, {"machine:\n  device: cpu\n", "    - \"linear_wgrad fp32 ", "    - \"rmsnorm_backward fp32 "});
  prints(work.succeed({"plan", "--config", "tiny.yaml", "--machine", "machine.yaml"}),
         {"time  ", " ms a step on cpu, ", "computing 100 %", "without a measured figure, reckoned like others: "});
  const std::string without = work.succeed({"plan", "--config", "tiny.yaml"});
  CHECK_FALSE(has(without, " a step on "));
  prints(work.succeed({"plan", "--config", "tiny.yaml", "--config", "machine.yaml"}), {" ms a step on cpu, "});

  const auto refused = [&](const std::vector<std::string>& words, const std::string& what) {
    const Outcome outcome = work.run(words);
    INFO(outcome.err);
    CHECK(outcome.code == 2);
    CHECK(has(outcome.err, what));
  };
  refused({"plan", "--config", "tiny.yaml", "--machine", "none.yaml"}, "there is no file 'none.yaml'");
  refused({"bench", "ops", "--machine", "machine.yaml"}, "--machine: goes with --mode perf");
  work.write("other.yaml", "machine: {device: another}\n");
  refused({"bench", "ops", "--mode", "perf", "--machine", "other.yaml"}, "holds figures of 'another'");
  refused({"plan", "--config", "tiny.yaml", "--machine", "other.yaml"}, "section machine: a step's time needs device");
  work.write("bad.yaml", "machine: {device: cpu, operations: [linear fp32 1 2]}\n");
  refused({"plan", "--config", "tiny.yaml", "--machine", "bad.yaml"}, "'linear fp32 1 2': expected");
  work.write("empty.yaml", "machine: {copy_bandwidth: 1.0e9}\n");
  refused({"plan", "--config", "tiny.yaml", "--machine", "empty.yaml"}, "section machine: a step's time needs device");
  // Two ranks need collectives, which were not measured.
  refused({"plan", "--config", "tiny.yaml", "--machine", "machine.yaml", "--world-size", "2"},
          "no all_reduce was measured");
}

TEST_CASE("plan --machine: the GPUs of configs/base/machines") {
  const Workspace work;
  for (const std::string gpu : {"h200", "h100"}) {
    const std::string machine = std::string(MEGATRON_SOURCE_DIR) + "/configs/base/machines/" + gpu + ".yaml";
    const std::string text =
        work.succeed({"plan", "--config", std::string(MEGATRON_SOURCE_DIR) + "/configs/llama3_8b.yaml", "--machine",
                      machine, "--world-size", "16", "--set", "parallel.tensor_model_parallel_size=4", "--set",
                      "parallel.pipeline_model_parallel_size=2", "--set", "parallel.use_distributed_optimizer=true"});
    prints(text, {" ms a step on NVIDIA H", " tokens/s of all ranks, ", "MFU ", "for other stages ",
                  "between nodes of 8 GPUs: assumed 50 GB/s"});
    prints(
        work.succeed({"plan", "--config", std::string(MEGATRON_SOURCE_DIR) + "/configs/llama3_8b.yaml", "--machine",
                      machine, "--world-size", "2", "--rank", "1", "--set", "parallel.pipeline_model_parallel_size=2"}),
        {"time         not reckoned: it takes a rank of every pipeline stage; leave --rank out\n"});
  }
}

TEST_CASE("plan, dry run and validate look at a configuration without training") {
  const Workspace work;
  work.prepare();
  const std::string plan = work.succeed({"plan", "--config", "tiny.yaml"});
  prints(plan, {"gpt, 2 layers, hidden 32", "(44192)", "400 ids, padded to 512 rows",
                "8 x 32 = 256 tokens in 2 micro-batches of 4", "FLOPs ", "optimizer state", "arena ", "decisions\n",
                "model.kv_channels = 8: hidden_size / num_attention_heads"});
  const std::string programs = work.succeed({"plan", "--config", "tiny.yaml", "--print-program"});
  CHECK(programs.starts_with(plan));
  prints(programs,
         {"decoder.layers.1.self_attention.linear_qkv.weight", "attention", "lm_head_loss", "adamw", "output_layer"});
  CHECK_FALSE(has(plan, "linear_qkv"));
  const std::string mesh =
      work.succeed({"plan", "--config", "tiny.yaml", "--world-size", "4", "--set",
                    "parallel.tensor_model_parallel_size=2", "--set", "training.micro_batch_size=2"});
  prints(mesh, {"256 tokens in 2 micro-batches of 2 on each data-parallel rank", "4: tp 2, dp 2"});
  const auto stage = [&](const char* rank) {
    return work.succeed({"plan", "--config", "tiny.yaml", "--world-size", "2", "--set",
                         "parallel.pipeline_model_parallel_size=2", "--rank", rank});
  };
  const std::string first = stage("0"), last = stage("1");  // the last has the logits
  prints(first, {"2: pp 2; memory is that of one rank of stage 1\n"});
  prints(last, {"of stage 2\n"});
  CHECK(first.substr(first.find("\n  total")) != last.substr(last.find("\n  total")));
  const std::string stages =
      work.succeed({"plan", "--config", "tiny.yaml", "--world-size", "4", "--simulate", "--set",
                    "parallel.pipeline_model_parallel_size=2", "--set", "training.micro_batch_size=2"});
  prints(stages, {"all 4 ranks, those with the same numbers in one row\n", "0-1 ", "embedding 0", "2-3 ", "1 loss",
                  "largest\n", "communication of one step", "pp-backward calls", "of the work of the busiest stage",
                  "a training step and an evaluation of all 4 ranks: proven\n", "no deadlock\n"});
  CHECK_FALSE(has(mesh, "simulation"));
  CHECK_FALSE(has(first, "all 2 ranks"));
  CHECK(work.run({"plan", "--config", "tiny.yaml", "--simulate", "--rank", "0"}).code == 2);
  const Outcome beyond = work.run({"plan", "--config", "tiny.yaml", "--rank", "1"});
  CHECK(beyond.code == 2);
  CHECK(has(beyond.err, "--rank 1: the ranks of --world-size 1 are 0 to 0"));

  const std::string dry = work.succeed({"pretrain", "--config", "tiny.yaml", "--dry-run"});
  prints(dry, {"(44192)", "nothing was trained"});
  CHECK(work.run({"pretrain", "--dry-run", "--config", "tiny.yaml", "--set", "data.data_path=[data/none]"}).code == 3);

  prints(work.succeed({"validate", "--config", "tiny.yaml"}), {"decided: model.kv_channels", "valid for 1 rank\n"});
  work.succeed({"validate", "--config", "tiny.yaml", "--check-files"});
  std::filesystem::remove(work.path("data/text_document.idx"));
  work.succeed({"validate", "--config", "tiny.yaml"});
  const Outcome missing = work.run({"validate", "--config", "tiny.yaml", "--check-files"});
  CHECK(missing.code == 3);
  CHECK(has(missing.err, "data/text_document.idx"));
  CHECK_FALSE(work.exists("out"));
}

TEST_CASE("config shows, explains, describes and translates") {
  const Workspace work;
  work.write("tiny.yaml", tiny_yaml("out/tiny"));
  work.write("small.yaml", "extends: tiny.yaml\nmodel: {num_layers: 1}\n");
  const std::vector<std::string> files = {"--config", "small.yaml", "--set", "optimizer.lr=0.5"};
  const auto show = [&](const std::vector<std::string>& more) {
    std::vector<std::string> words = {"config", "show"};
    words.insert(words.end(), files.begin(), files.end());
    words.insert(words.end(), more.begin(), more.end());
    return work.succeed(words);
  };
  prints(show({}), {"\n  num_layers: 1\n", "\n  lr: 0.5\n", "\n  kv_channels: 8\n", "\n  hidden_size: 32\n"});
  const std::string origins = show({"--origin"});
  prints(origins, {"# small.yaml:2:", "# tiny.yaml:2:", "# <set>", "# default", "# derived"});

  prints(work.succeed({"config", "explain", "optimizer.lr"}),
         {"Highest learning rate", "value:", "default:", "resume:", "--lr"});
  prints(work.succeed({"config", "explain", "num_layers"}), {"model.num_layers"});
  prints(work.succeed({"config", "explain", "--", "--num-layers"}), {"model.num_layers"});
  const Outcome unknown = work.run({"config", "explain", "optimizer.lrr"});
  CHECK(unknown.code == 2);
  CHECK(has(unknown.err, "did you mean optimizer.lr?"));

  const nlohmann::json schema = nlohmann::json::parse(work.succeed({"config", "schema"}));
  CHECK(schema["properties"]["model"]["properties"]["num_layers"]["type"] == "integer");
  CHECK(schema["additionalProperties"] == false);

  const std::string translated =
      work.succeed({"config", "from-megatron-args", "--", "--num-layers", "24", "--hidden-size", "1024", "--bf16"});
  prints(translated, {"num_layers: 24", "hidden_size: 1024", "params_dtype: bf16"});
  work.write("args.txt", "--num-layers 3 --lr 0.1 \\\n  --seq-length 16");
  prints(work.succeed({"config", "from-megatron-args", "--file", "args.txt"}), {"num_layers: 3", "seq_length: 16"});
  CHECK(work.run({"config", "from-megatron-args"}).code == 2);
}

TEST_CASE("checkpoint shows and compares") {
  const Workspace work;
  work.prepare();
  work.succeed({"pretrain", "--config", "tiny.yaml"});
  prints(work.succeed({"checkpoint", "verify", "out/tiny/checkpoints"}),
         {"iter_0000010: good", "iter_0000020: good", "iter_0000030: good"});
  prints(work.succeed({"checkpoint", "verify", "out/tiny/checkpoints/iter_0000010"}), {"iter_0000010: good\n"});
  const std::string newest = work.succeed({"checkpoint", "inspect", "out/tiny/checkpoints"});
  CHECK(work.succeed({"checkpoint", "inspect", "out/tiny"}) == newest);
  CHECK(work.succeed({"checkpoint", "verify", "out/tiny"}) ==
        work.succeed({"checkpoint", "verify", "out/tiny/checkpoints"}));
  prints(newest, {"iter_0000030", "iteration     30", "consumed_samples = 240", "parameter     15 tensors"});
  CHECK_FALSE(has(newest, "linear_qkv"));
  prints(work.succeed({"checkpoint", "inspect", "--tensors", "out/tiny/checkpoints/iter_0000010"}),
         {"iteration     10", "decoder.layers.0.self_attention.linear_qkv.weight", "optimizer.state.exp_avg."});
  prints(work.succeed({"checkpoint", "inspect", "--config", "out/tiny"}),
         {"iteration     30", "model:", "vocab_size:"});
  const std::string a = "out/tiny/checkpoints/iter_0000010", b = "out/tiny/checkpoints/iter_0000020";
  prints(work.succeed({"checkpoint", "inspect", a, "--diff", b}),
         {"--- " + a, "+++ " + b, "consumed_samples", "embedding.word_embeddings.weight"});
  prints(work.succeed({"checkpoint", "inspect", a, "--diff", a}), {"no difference"});
}

TEST_CASE("data counts, shows, merges and verifies") {
  const Workspace work;
  work.prepare();
  prints(work.succeed({"data", "stats", "data/text_document"}),
         {"documents          1\n", "token type         u16\n", "400 ids", "greatest id"});
  const std::vector<std::string> decode = {"--decode", "--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model",
                                           "data/tokenizer.json"};
  std::vector<std::string> show = {"data", "show", "data/text_document", "--limit", "1000000"};
  show.insert(show.end(), decode.begin(), decode.end());
  CHECK((work.succeed(show) == real_text() + "<|endoftext|>\n"));
  const std::string ids = work.succeed({"data", "show", "data/text_document", "--limit", "3"});
  CHECK(std::count(ids.begin(), ids.end(), ' ') == 2);
  CHECK(work.run({"data", "show", "data/text_document", "--document", "1"}).code == 2);

  prints(work.succeed(
             {"data", "merge", "--input", "data/text_document", "data/text_document", "--output-prefix", "data/two"}),
         {"2 inputs, 2 documents"});
  prints(work.succeed({"data", "verify", "data/two"}), {"sound: 2 documents", "hashes agree"});
  const std::string one = work.read("data/text_document.bin");
  CHECK((work.read("data/two.bin") == one + one));
  work.damage("data/two.bin", 1001);
  const Outcome damaged = work.run({"data", "verify", "data/two"});
  CHECK(damaged.code == 3);
  CHECK(has(damaged.err, "data/two"));
}

TEST_CASE("data samples writes what the run reads") {
  const Workspace work;
  work.prepare();
  const std::vector<std::string> words = {"data", "samples", "--config", "tiny.yaml", "--output", "s.safetensors"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), words.begin(), words.end());
    return more;
  };
  prints(work.succeed(with({"--count", "5", "--first", "8"})), {"s.safetensors: samples 8 to 12 of train, 33 tokens"});
  const std::string eighth = work.read("s.safetensors");
  CHECK(has(eighth, R"("shape":[5,33])"));
  work.succeed(with({"--count", "13"}));
  CHECK((work.read("s.safetensors").ends_with(eighth.substr(eighth.size() - 5 * 33 * 4))));
  work.succeed(with({"--count", "1", "--split", "valid"}));
  const Outcome empty = work.run(with({"--count", "1", "--split", "test", "--set", "data.split=90,10,0"}));
  CHECK(empty.code == 2);
  CHECK(has(empty.err, "--split test: data.split leaves no such samples"));
  CHECK(work.run(with({"--count", "0"})).code == 2);
}

TEST_CASE("tokenizer encodes and decodes") {
  const Workspace work;
  work.prepare();
  const std::vector<std::string> spec = {"--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model",
                                         "data/tokenizer.json"};
  const auto run = [&](std::vector<std::string> words) {
    words.insert(words.begin(), "tokenizer");
    words.insert(words.end(), spec.begin(), spec.end());
    return work.succeed(words);
  };
  std::string ids = run({"encode", "--text", "the License"});
  REQUIRE(!ids.empty());
  work.write("ids.txt", ids);
  prints(run({"decode", "--input", "ids.txt"}), {"the License"});
}

TEST_CASE("bench ops tells which devices and types each operation supports, and checks one") {
  const Workspace work;
  prints(work.succeed({"bench", "ops", "--mode", "support"}),
         {"fp64  fp32  bf16  fp16", "attention", "lm_head_loss", "rope"});
  prints(work.succeed({"bench", "ops", "--mode", "test", "--op", "clip"}), {"clip", "ok"});
  prints(work.succeed({"bench", "ops", "--mode", "grad", "--op", "rope"}), {"rope", "fp64", "ok"});
}

}  // namespace
}  // namespace megatron::testing
