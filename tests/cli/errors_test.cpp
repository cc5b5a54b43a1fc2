// Each kind of wrong input: its exit code, and one message that names file, place and remedy.
#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/catch.h"
#include "tests/cli/command.h"

namespace megatron::testing {
namespace {

/// The run is refused with this code, and its message holds all these parts.
void refused(const Outcome& outcome, int code, const std::vector<std::string>& parts) {
  CHECK(outcome.code == code);
  for (const std::string& part : parts) {
    INFO("expected: " << part << "\nsaid: " << outcome.err);
    CHECK(has(outcome.err, part));
  }
}

/// A wrong call costs a message, not a page of help.
bool is_short(const Outcome& outcome) {
  return std::count(outcome.err.begin(), outcome.err.end(), '\n') <= 3;
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

TEST_CASE("words of the command line that do not fit are named, with the nearest that does") {
  const Workspace work;
  const auto wrong = [&](const std::vector<std::string>& words, const std::vector<std::string>& parts) {
    const Outcome outcome = work.run(words);
    refused(outcome, 2, parts);
    CHECK(outcome.out.empty());
    CHECK(is_short(outcome));
  };
  wrong({"pretrian", "--config", "x"},
        {"error: megatron: unknown command 'pretrian'; did you mean 'pretrain'?", "commands: bench, "});
  wrong({"zzz"}, {"unknown command 'zzz'\ncommands: "});
  wrong({}, {"megatron: a command is missing", "generate", "see megatron --help"});
  wrong({"data", "mrege"}, {"megatron data: unknown command 'mrege'; did you mean 'merge'?"});
  wrong({"data"}, {"megatron data: a command is missing: merge, stats, show, verify"});
  wrong({"pretrain"}, {"megatron pretrain: --config is required", "see megatron pretrain --help"});
  wrong({"pretrain", "--confg", "x.yaml"}, {"megatron pretrain: unknown option '--confg'; did you mean '--config'?"});
  wrong({"generate", "--load", "x", "--temprature=1"},
        {"unknown option '--temprature'; did you mean '--temperature'?"});
  wrong({"generate", "--load", "x", "--top-k", "many"}, {"--top-k", "many"});
  wrong({"generate", "--load", "x", "--prompt", "a", "--prompts", "b"}, {"--prompt"});
  wrong({"generate", "--load", "x", "--device", "gpu", "--prompt", "a"}, {"--device", "gpu"});
  wrong({"generate", "--load", "x", "--prompt", "a", "--top-p", "2"}, {"--top-p"});
  wrong({"generate", "--load", "x", "--prompt", "a", "--temperature", "-1"}, {"--temperature"});
  wrong({"generate", "--load", "x"}, {"no prompt", "--prompt TEXT"});
  wrong({"generate", "--load", "x", "--prompt", "a", "--pipeline-model-parallel-size", "0"}, {"0: give 1 or more"});
  wrong({"generate", "--load", "x", "--prompt", "a", "--tensor-model-parallel-size", "0"}, {"0: give 1 or more"});
  wrong({"generate", "--load", "x", "--prompt", "a", "--pipeline-model-parallel-size", "2"},
        {"--pipeline-model-parallel-size 2: 1 rank was started; start a multiple of 2 (mpirun -n 2)"});
  wrong({"generate", "--load", "x", "--prompt", "a", "--tensor-model-parallel-size", "2"},
        {"are 2 ranks, but 1 rank was started; start 2 (mpirun -n 2)"});
  for (const char* mode : {"support", "perf"}) {
    const Outcome outcome = work.run({"bench", "ops", "--mode", mode, "--op", "linaer"});
    refused(outcome, 2, {"linaer", "did you mean 'linear'?"});
    CHECK(outcome.out.empty());
  }
  wrong({"data", "stats", "a", "b"}, {"unexpected word 'b'"});
}

TEST_CASE("errors of a configuration come all at once, each with file, line, column and caret") {
  const Workspace work;
  std::string yaml = replaced(tiny_yaml("out/a"), "hidden_size: 32", "hiden_size: 32");
  yaml = replaced(yaml, "seed: 1234", "seed: 1234, seed: 5");
  yaml = replaced(yaml, "lr: 1.0e-2", "lr: fast");
  yaml = replaced(yaml, "micro_batch_size: 4", "micro_batch_size: 0");
  work.write("bad.yaml", yaml);
  const Outcome unknown = work.run({"pretrain", "--config", "bad.yaml"});
  refused(unknown, 2,
          {"bad.yaml:1:44: duplicate key 'seed' (first in line 1)",
           "bad.yaml:2:37: model.hiden_size: unknown key (did you mean hidden_size?)",
           "bad.yaml:8:", "optimizer.lr: expected number", "training.micro_batch_size"});
  // Under the quoted line a caret in the column of the key.
  const size_t at = unknown.err.find("unknown key");
  const size_t line = unknown.err.find("model: {family", at), caret_line = unknown.err.find('\n', line) + 1;
  REQUIRE(line != std::string::npos);
  const size_t line_begin = unknown.err.rfind('\n', line) + 1;
  CHECK(unknown.err.find('^', caret_line) - caret_line == unknown.err.find("hiden_size", line) - line_begin);
  CHECK_FALSE(work.exists("out"));  // refused before anything is made

  refused(work.run({"validate", "--config", "bad.yaml"}), 2, {"hiden_size"});
  refused(work.run({"plan", "--config", "bad.yaml"}), 2, {"hiden_size"});
  refused(work.run({"pretrain", "--config", "none.yaml"}), 2, {"none.yaml"});
}

TEST_CASE("wrong settings of the command line") {
  const Workspace work;
  work.prepare();
  const auto set = [&](const std::string& setting) {
    return work.run({"pretrain", "--config", "tiny.yaml", "--set", setting});
  };
  refused(set("optimizer.lrr=3"), 2, {"optimizer.lrr: unknown key (did you mean lr?)"});
  refused(set("optimiser.lr=3"), 2, {"optimiser", "did you mean optimizer?"});
  refused(set("optimizer.lr=high"), 2, {"optimizer.lr: expected number"});
  refused(set("optimizer.lr"), 2, {"optimizer.lr"});
  refused(set("model.num_attention_heads=5"), 2, {"num_attention_heads"});
  refused(set("training.global_batch_size=6"), 2, {"global_batch_size"});
  refused(set("parallel.tensor_model_parallel_size=3"), 2, {"tensor_model_parallel_size"});
  CHECK_FALSE(work.exists("out"));
}

TEST_CASE("data and tokenizers that do not fit") {
  const Workspace work;
  work.prepare();
  const auto set = [&](const std::vector<std::string>& settings) {
    std::vector<std::string> words = {"pretrain", "--config", "tiny.yaml"};
    for (const std::string& setting : settings) words.insert(words.end(), {"--set", setting});
    return work.run(words);
  };
  refused(set({"data.data_path=[data/none]"}), 3, {"data/none.idx: no such file"});
  const nlohmann::json status = nlohmann::json::parse(work.read("out/tiny/exit_status.json"));
  CHECK(status["code"] == 3);
  CHECK(has(status["reason"].get<std::string>(), "data/none.idx"));
  refused(set({"data.tokenizer_model=data/none.json"}), 3, {"data/none.json"});

  work.succeed(
      {"tokenizer", "train", "--input", "corpus.txt", "--vocab-size", "300", "--output", "other/tokenizer.json"});
  refused(set({"data.tokenizer_model=other/tokenizer.json"}), 3, {"data/text_document", "another tokenizer"});
  // The same refusal without the side file: ids that the tokenizer does not have.
  std::filesystem::remove(work.path("data/text_document.meta.json"));
  refused(set({"data.tokenizer_model=other/tokenizer.json"}), 3, {"data/text_document"});

  const std::string bin = work.read("data/text_document.bin");
  work.write("data/text_document.bin", bin.substr(0, 1000));
  refused(set({}), 3, {"data/text_document.bin: 1000 bytes", "truncated"});
  refused(work.run({"data", "verify", "data/text_document"}), 3, {"data/text_document.bin", "truncated"});
  work.write("data/text_document.bin", bin);
  work.damage("data/text_document.idx", 3);
  refused(set({}), 3, {"data/text_document.idx"});
  CHECK_FALSE(work.exists("out/tiny/checkpoints/latest"));
}

TEST_CASE("preprocess and tokenizer name the file and line that are wrong") {
  const Workspace work;
  work.prepare();
  const auto preprocess = [&](const std::string& input) {
    return work.run({"preprocess", "--input", input, "--output-prefix", "data/new", "--tokenizer-type",
                     "HuggingFaceTokenizer", "--tokenizer-model", "data/tokenizer.json"});
  };
  work.write("bad.jsonl", "{\"text\": \"fine\"}\n{\"text\": \n");
  refused(preprocess("bad.jsonl"), 3, {"bad.jsonl", "2"});
  work.write("key.jsonl", "{\"txt\": \"fine\"}\n");
  refused(preprocess("key.jsonl"), 3, {"key.jsonl", "text"});
  refused(preprocess("none.txt"), 3, {"none.txt"});
  CHECK_FALSE(work.exists("data/new_document.bin"));
  CHECK_FALSE(work.exists("data/new_text_document.bin"));
  refused(work.run({"tokenizer", "train", "--input", "none.txt", "--vocab-size", "300", "--output", "t.json"}), 3,
          {"none.txt"});
  refused(work.run({"tokenizer", "train", "--input", "corpus.txt", "--vocab-size", "100", "--output", "t.json"}), 2,
          {"100"});
}

constexpr const char* kShard = "/shard-00000-00000.safetensors";

TEST_CASE("a damaged byte of a checkpoint is found; an older one serves; with none left it is exit 3") {
  const Workspace work;
  work.prepare();
  work.succeed({"pretrain", "--config", "tiny.yaml"});
  const std::string checkpoints = "out/tiny/checkpoints/";
  work.damage(checkpoints + "iter_0000030" + kShard, 20000);
  const Outcome verified = work.run({"checkpoint", "verify", "out/tiny/checkpoints"});
  refused(verified, 3, {"1 of 3 checkpoints in out/tiny/checkpoints are damaged"});
  CHECK(has(verified.out,
            "iter_0000030: DAMAGED\n  out/tiny/checkpoints/iter_0000030/shard-00000-00000.safetensors: bytes ["));
  CHECK(has(verified.out, "iter_0000020: good"));
  const std::vector<std::string> generate = {
      "generate", "--load", "out/tiny", "--prompt", "You", "--num-tokens-to-generate", "4"};
  const Outcome fallen = work.run(generate);
  CHECK(fallen.code == 0);
  CHECK(has(fallen.err, "iter_0000030/shard-00000-00000.safetensors: bytes ["));
  CHECK(has(fallen.err, "model of out/tiny/checkpoints/iter_0000020"));
  refused(work.run({"generate", "--load", "out/tiny", "--ckpt-step", "30", "--prompt", "You"}), 3,
          {"iter_0000030", "bytes ["});

  // Training goes on from the older one as well, and makes the damaged one anew.
  const Outcome resumed = work.run({"pretrain", "--config", "tiny.yaml"});
  CHECK(resumed.code == 0);
  CHECK(has(resumed.err, "resumed from out/tiny/checkpoints/iter_0000020"));
  CHECK(work.run({"checkpoint", "verify", "out/tiny/checkpoints"}).code == 0);

  work.damage(checkpoints + "iter_0000010/manifest.json", 300);
  work.damage(checkpoints + "iter_0000020" + kShard, 2);
  work.damage(checkpoints + "iter_0000030" + kShard, 20000);
  const std::vector<std::string> all = {"none of its 3 checkpoints is usable", "iter_0000010/manifest.json",
                                        "iter_0000020/shard-00000-00000.safetensors",
                                        "iter_0000030/shard-00000-00000.safetensors: bytes ["};
  refused(work.run({"pretrain", "--config", "tiny.yaml"}), 3, all);
  refused(work.run(generate), 3, all);
  CHECK(work.read(checkpoints + "latest").starts_with("iter_0000030"));  // nothing was removed or written
}

TEST_CASE("checkpoint.load of a folder without checkpoints") {
  const Workspace work;
  work.prepare();
  std::filesystem::create_directories(work.path("empty"));
  for (const std::string folder : {"empty", "none"}) {
    const std::vector<std::string> words = {"pretrain",
                                            "--config",
                                            "tiny.yaml",
                                            "--set",
                                            "checkpoint.load=" + folder,
                                            "--set",
                                            "run.dir=out/" + folder,
                                            "--set",
                                            "checkpoint.save=out/" + folder + "/checkpoints"};
    std::vector<std::string> strict = words;
    strict.insert(strict.end(), {"--set", "checkpoint.exit_on_missing_checkpoint=true"});
    refused(work.run(strict), 3, {"checkpoint.load: " + folder + " holds no checkpoint", "exit_on_missing_checkpoint"});
    const Outcome started = work.run(words);
    CHECK(started.code == 0);
    CHECK(has(started.err, "checkpoint.load: " + folder + " holds no checkpoint; starting from scratch"));
  }
  refused(work.run({"generate", "--load", "empty", "--prompt", "a"}), 3, {"empty", "holds no checkpoint"});
  refused(work.run({"generate", "--load", "none", "--prompt", "a"}), 3, {"none", "no such folder"});
  refused(work.run({"checkpoint", "inspect", "empty"}), 3, {"empty"});
}

TEST_CASE("what may not change on resume is refused by name, what may is printed") {
  const Workspace work;
  work.prepare();
  const auto pretrain = [&](std::vector<std::string> settings) {
    std::vector<std::string> words = {"pretrain", "--config", "tiny.yaml"};
    for (const std::string& setting : settings) words.insert(words.end(), {"--set", setting});
    return work.run(words);
  };
  REQUIRE(pretrain({"run.exit_interval=10"}).code == 75);
  refused(pretrain({"model.num_layers=3", "training.eval_iters=1"}), 2,
          {"cannot resume from out/tiny/checkpoints/iter_0000010", "model.num_layers: 2 -> 3", "refused"});
  refused(pretrain({"run.seed=7"}), 2, {"run.seed: 1234 -> 7"});
  work.succeed({"tokenizer", "train", "--input", "corpus.txt", "--vocab-size", "400", "--output",
                "other/tokenizer.json", "--special-tokens", "<end>", "<pad>"});
  work.succeed({"preprocess", "--input", "corpus.txt", "--output-prefix", "data/other", "--tokenizer-type",
                "HuggingFaceTokenizer", "--tokenizer-model", "other/tokenizer.json", "--append-eod"});
  const Outcome other = pretrain({"data.tokenizer_model=other/tokenizer.json", "data.data_path=[data/other_document]"});
  CHECK((other.code == 2 || other.code == 3));
  CHECK(has(other.err, "tokenizer"));
  const Outcome allowed = pretrain({"training.eval_iters=1"});
  CHECK(allowed.code == 0);
  CHECK(has(allowed.err, "training.eval_iters: 2 -> 1"));
}

TEST_CASE("a device that is not there is exit 4") {
  const Workspace work;
  work.prepare();
  // A GPU build on a machine with a GPU has nothing to refuse.
  const Outcome outcome = work.run({"pretrain", "--config", "tiny.yaml", "--set", "run.device=cuda"});
  if (outcome.code == 0) return;
  refused(outcome, 4, {"run.device", "cuda"});
  CHECK(nlohmann::json::parse(work.read("out/tiny/exit_status.json"))["code"] == 4);
}

}  // namespace
}  // namespace megatron::testing
