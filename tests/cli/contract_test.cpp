// From text to a trained model to text, as the handbook says it: every command as users type it.
#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/catch.h"
#include "tests/cli/command.h"

namespace megatron::testing {
namespace {

std::vector<nlohmann::json> json_lines(const std::string& text) {
  std::vector<nlohmann::json> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

void check_metrics(const std::vector<nlohmann::json>& lines) {
  REQUIRE(lines.size() == 31);
  CHECK(lines[0]["iteration"] == 0);  // the evaluation before the first step
  CHECK(lines[0].contains("valid_lm_loss"));
  for (size_t i = 1; i < lines.size(); ++i) {
    const nlohmann::json& line = lines[i];
    INFO(line.dump());
    CHECK(line["iteration"] == i);
    CHECK(line["consumed_samples"] == 8 * i);
    CHECK(line["consumed_tokens"] == 256 * i);
    for (const char* key : {"lm_loss", "grad_norm", "learning_rate", "step_seconds", "tokens_per_second",
                            "tflops_per_gpu", "peak_memory_bytes", "data_wait_fraction"}) {
      CHECK(line[key].is_number());
    }
    CHECK(line["mfu"].is_null());  // no peak is known on the CPU
    CHECK(line["skipped"] == false);
    CHECK(line.contains("valid_lm_loss") == (i % 10 == 0));
    CHECK(line.contains("test_lm_loss") == (i == 30));
  }
  const double first = lines[1]["lm_loss"], last = lines[30]["lm_loss"];
  CHECK(first == Approx(std::log(400.0)).margin(0.2));
  CHECK(last < first - 0.8);
  CHECK(lines[30]["valid_lm_loss"].get<double>() < lines[0]["valid_lm_loss"].get<double>() - 0.5);
}

void check_run_folder(const Workspace& work) {
  for (const char* name :
       {"resolved.yaml", "plan.txt", "env.txt", "metrics.jsonl", "command.txt", "logs/rank-0000.log",
        "exit_status.json", "tensorboard", "checkpoints/latest", "checkpoints/iter_0000010/manifest.json",
        "checkpoints/iter_0000020/resolved.yaml", "checkpoints/iter_0000030/tokenizer.json"}) {
    INFO(name);
    CHECK(work.exists(std::string("out/tiny/") + name));
  }
  const nlohmann::json status = nlohmann::json::parse(work.read("out/tiny/exit_status.json"));
  CHECK(status["code"] == 0);
  CHECK(status["iteration"] == 30);
  CHECK(status["rank"] == 0);
  for (const char* key : {"reason", "host", "phase", "culprit"}) CHECK(status[key].is_string());
  CHECK(has(work.read("out/tiny/command.txt"), "megatron pretrain --config tiny.yaml"));
  CHECK(has(work.read("out/tiny/logs/rank-0000.log"), "saved out/tiny/checkpoints/iter_0000030"));
  // What the run wrote is what `plan` prints, and a configuration that can be run again.
  CHECK(has(work.read("out/tiny/plan.txt"), "44192"));
  CHECK(work.succeed({"config", "show", "--config", "out/tiny/resolved.yaml"}) == work.read("out/tiny/resolved.yaml"));
}

TEST_CASE("text, tokenizer, token files, training, generated text") {
  const Workspace work;
  work.prepare();
  CHECK(work.exists("data/text_document.bin"));
  CHECK(work.exists("data/text_document.idx"));
  const Outcome trained = work.run({"pretrain", "--config", "tiny.yaml"});
  INFO(trained.err);
  REQUIRE(trained.code == 0);
  CHECK(has(trained.err, "step 30/30 | loss"));
  check_metrics(json_lines(work.read("out/tiny/metrics.jsonl")));
  check_run_folder(work);

  const auto generate = [&](const std::string& seed, const std::vector<std::string>& more = {}) {
    std::vector<std::string> words = {"generate",
                                      "--load",
                                      "out/tiny/checkpoints",
                                      "--prompt",
                                      "The license ",
                                      "--num-tokens-to-generate",
                                      "16",
                                      "--temperature",
                                      "0.8",
                                      "--seed",
                                      seed};
    words.insert(words.end(), more.begin(), more.end());
    return work.succeed(words);
  };
  const std::string text = generate("1");
  CHECK(text.starts_with("The license "));
  CHECK(text.size() > std::string("The license ").size() + 8);
  CHECK(generate("1") == text);
  CHECK(generate("1", {"--cpu-threads", "1"}) == text);
  CHECK("The license " + generate("1", {"--no-echo"}) == text);
  CHECK(generate("2") != text);
  const std::string greedy = generate("1", {"--greedy"});
  CHECK(generate("2", {"--greedy"}) == greedy);
  CHECK(generate("2", {"--top-k", "1"}) == greedy);

  // A finished run is finished: the same command changes nothing.
  const std::string manifest = work.read("out/tiny/checkpoints/iter_0000030/manifest.json");
  work.succeed({"pretrain", "--config", "tiny.yaml"});
  CHECK(work.read("out/tiny/checkpoints/iter_0000030/manifest.json") == manifest);
}

TEST_CASE("generate takes prompts from a file, a run folder, one checkpoint") {
  const Workspace work;
  work.prepare();
  work.succeed({"pretrain", "--config", "tiny.yaml"});
  work.write("prompts.txt", "The license\n\nYou may\n");
  const std::vector<std::string> greedy = {"--greedy", "--num-tokens-to-generate", "5"};
  const auto generate = [&](std::vector<std::string> words) {
    words.insert(words.begin(), "generate");
    words.insert(words.end(), greedy.begin(), greedy.end());
    return work.succeed(words);
  };
  const std::string first = generate({"--load", "out/tiny", "--prompt", "The license"});
  const std::string second = generate({"--load", "out/tiny/checkpoints/iter_0000030", "--prompt", "You may"});
  const std::string both = "=== 1\n" + first + "=== 2\n" + second;
  CHECK(generate({"--load", "out/tiny", "--prompts", "prompts.txt"}) == both);
  CHECK(generate({"--load", "out/tiny", "--prompt", "The license", "--prompt", "You may"}) == both);
  const Outcome early =
      work.run({"generate", "--load", "out/tiny", "--ckpt-step", "10", "--prompt", "You may", "--greedy"});
  CHECK(early.code == 0);
  CHECK(has(early.err, "iter_0000010"));
  CHECK(has(early.err, "tokens/s"));
  CHECK(work.run({"generate", "--load", "out/tiny", "--ckpt-step", "11", "--prompt", "x"}).code == 3);
  CHECK(work.run({"generate", "--load", "out/tiny", "--prompts", "none.txt"}).code == 3);
  work.write("empty.txt", "\n");
  CHECK(has(work.run({"generate", "--load", "out/tiny", "--prompts", "empty.txt"}).err, "empty.txt: holds no prompt"));
}

TEST_CASE("JSONL gives a pair of files for each key") {
  const Workspace work;
  work.prepare();
  work.write("docs.jsonl",
             "{\"text\": \"You may copy the Work.\", \"title\": \"First\"}\n"
             "{\"text\": \"\\u00e9t\\u00e9\", \"title\": \"Second\"}\n");
  const std::string out =
      work.succeed({"preprocess", "--input", "docs.jsonl", "--output-prefix", "data/books", "--tokenizer-type",
                    "HuggingFaceTokenizer", "--tokenizer-model", "data/tokenizer.json", "--append-eod", "--json-keys",
                    "text", "title", "--workers", "2"});
  CHECK(out == "data/books_text_document\ndata/books_title_document\n");
  for (const char* name : {"text_document.bin", "text_document.idx", "title_document.bin", "title_document.idx"}) {
    CHECK(work.exists(std::string("data/books_") + name));
  }
  const auto show = [&](const std::string& prefix, const std::string& document) {
    return work.succeed({"data", "show", prefix, "--document", document, "--decode", "--tokenizer-type",
                         "HuggingFaceTokenizer", "--tokenizer-model", "data/tokenizer.json"});
  };
  CHECK(show("data/books_text_document", "0") == "You may copy the Work.<|endoftext|>\n");
  CHECK(show("data/books_text_document", "1") == "\xC3\xA9t\xC3\xA9<|endoftext|>\n");
  CHECK(show("data/books_title_document", "1") == "Second<|endoftext|>\n");
}

TEST_CASE("finetune takes the weights and starts anew") {
  const Workspace work;
  work.prepare();
  work.succeed({"pretrain", "--config", "tiny.yaml"});
  work.write("tune.yaml", tiny_yaml("out/tune"));
  const Outcome missing = work.run({"finetune", "--config", "tune.yaml"});
  CHECK(missing.code == 2);
  CHECK(has(missing.err, "checkpoint.load"));
  const Outcome tuned = work.run({"finetune", "--config", "tune.yaml", "--set", "checkpoint.load=out/tiny/checkpoints",
                                  "--set", "training.train_iters=5", "--set", "optimizer.lr_warmup_iters=1"});
  INFO(tuned.err);
  REQUIRE(tuned.code == 0);
  const std::vector<nlohmann::json> lines = json_lines(work.read("out/tune/metrics.jsonl"));
  const std::vector<nlohmann::json> before = json_lines(work.read("out/tiny/metrics.jsonl"));
  CHECK(lines[0]["valid_lm_loss"] == before.back()["valid_lm_loss"]);  // the same weights, bit for bit
  CHECK(lines[1]["iteration"] == 1);
  CHECK(lines[1]["consumed_samples"] == 8);
}

}  // namespace
}  // namespace megatron::testing
