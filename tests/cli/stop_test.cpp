// Stopping and going on: the result is the same, bit for bit, as if nothing had happened.
#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>

#include "tests/catch.h"
#include "tests/cli/command.h"

namespace megatron::testing {
namespace {

/// tiny.yaml with dropout, 40 iterations.
std::vector<std::string> pretrain(const std::string& run, const std::vector<std::string>& settings) {
  std::vector<std::string> words = {"pretrain", "--config", "tiny.yaml"};
  for (const std::string& set : {"run.dir=out/" + run, "checkpoint.save=out/" + run + "/checkpoints",
                                 std::string("model.hidden_dropout=0.1"), std::string("model.attention_dropout=0.1")}) {
    words.insert(words.end(), {"--set", set});
  }
  for (const std::string& set : settings) words.insert(words.end(), {"--set", set});
  return words;
}

nlohmann::json status_of(const Workspace& work, const std::string& run) {
  return nlohmann::json::parse(work.read("out/" + run + "/exit_status.json"));
}

void check_same(const Workspace& work, const std::string& a, const std::string& b, const std::string& last) {
  CHECK(comparable_metrics(work.read("out/" + a + "/metrics.jsonl")) ==
        comparable_metrics(work.read("out/" + b + "/metrics.jsonl")));
  const std::string shard = "/checkpoints/" + last + "/shard-00000-00000.safetensors";
  CHECK((work.read("out/" + a + shard) == work.read("out/" + b + shard)));  // weights and optimizer
}

void check_exit_interval(const std::string& dtype) {
  INFO(dtype);
  const Workspace work;
  work.prepare();
  const std::vector<std::string> settings = {"training.train_iters=40", "precision.params_dtype=" + dtype,
                                             "run.exit_interval=20"};
  CHECK(work.run(pretrain("straight", {settings[0], settings[1]})).code == 0);
  const Outcome stopped = work.run(pretrain("stopped", settings));
  CHECK(stopped.code == 75);
  CHECK(has(stopped.err, "run the same command again"));
  CHECK(work.exists("out/stopped/checkpoints/iter_0000020/manifest.json"));
  CHECK_FALSE(work.exists("out/stopped/checkpoints/iter_0000030"));
  CHECK(status_of(work, "stopped")["code"] == 75);
  CHECK(status_of(work, "stopped")["iteration"] == 20);
  const Outcome resumed = work.run(pretrain("stopped", settings));
  INFO(resumed.err);
  CHECK(resumed.code == 0);
  CHECK(has(resumed.err, "resumed from out/stopped/checkpoints/iter_0000020: iteration 20, 160 samples consumed"));
  CHECK(status_of(work, "stopped")["code"] == 0);
  check_same(work, "straight", "stopped", "iter_0000040");
}

TEST_CASE("exit_interval stops with 75, the same command goes on, nothing differs: fp32") {
  check_exit_interval("fp32");
}
TEST_CASE("exit_interval stops with 75, the same command goes on, nothing differs: bf16") {
  check_exit_interval("bf16");
}

/// Waits until the run has written so many lines of metrics.
void await_lines(const Workspace& work, const std::string& name, int64_t lines) {
  for (int i = 0; i < 12000; ++i) {
    if (work.exists(name)) {
      const std::string text = work.read(name);
      if (std::count(text.begin(), text.end(), '\n') >= lines) return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  FAIL(name << " did not grow");
}

void check_signal(int number, const std::string& name) {
  INFO(name);
  const Workspace work;
  work.prepare();
  const std::vector<std::string> settings = {"training.train_iters=300", "training.eval_interval=100",
                                             "checkpoint.save_interval=1000"};
  Process process = work.start(pretrain("stopped", settings));
  await_lines(work, "out/stopped/metrics.jsonl", 20);
  process.signal(number);
  const Outcome stopped = process.wait();
  INFO(stopped.err);
  REQUIRE(stopped.code == 75);
  const nlohmann::json status = status_of(work, "stopped");
  CHECK(status["code"] == 75);
  CHECK(has(status["reason"].get<std::string>(), name));
  const int64_t iteration = status["iteration"];
  CHECK(iteration >= 19);
  CHECK(iteration < 300);
  char folder[64];
  std::snprintf(folder, sizeof folder, "out/stopped/checkpoints/iter_%07d", static_cast<int>(iteration));
  CHECK(work.exists(folder));
  CHECK(work.run(pretrain("stopped", settings)).code == 0);
  CHECK(work.run(pretrain("straight", settings)).code == 0);
  check_same(work, "straight", "stopped", "iter_0000300");
}

TEST_CASE("SIGUSR1 saves and stops with 75, nothing differs after going on") {
  check_signal(SIGUSR1, "SIGUSR1");
}
TEST_CASE("SIGTERM saves and stops with 75, nothing differs after going on") {
  check_signal(SIGTERM, "SIGTERM");
}
TEST_CASE("SIGINT saves and stops with 75", "[full]") {
  check_signal(SIGINT, "SIGINT");
}

TEST_CASE("a killed run goes on from its newest checkpoint, nothing differs") {
  const Workspace work;
  work.prepare();
  const std::vector<std::string> settings = {"training.train_iters=200", "training.eval_interval=100",
                                             "checkpoint.save_interval=20"};
  Process process = work.start(pretrain("killed", settings));
  await_lines(work, "out/killed/metrics.jsonl", 50);
  process.signal(SIGKILL);
  CHECK(process.wait().code == 128 + SIGKILL);
  const Outcome resumed = work.run(pretrain("killed", settings));
  CHECK(resumed.code == 0);
  CHECK(has(resumed.err, "resumed from"));
  CHECK(work.run(pretrain("straight", settings)).code == 0);
  check_same(work, "straight", "killed", "iter_0000200");
}

TEST_CASE("two runs in one folder: the second is refused, the first goes on") {
  const Workspace work;
  work.prepare();
  Process process = work.start(pretrain("one", {"training.train_iters=100000"}));
  await_lines(work, "out/one/metrics.jsonl", 3);
  const Outcome second = work.run(pretrain("one", {"training.train_iters=100000"}));
  CHECK(second.code == 2);
  CHECK(has(second.err, "out/one"));
  process.signal(SIGUSR1);
  CHECK(process.wait().code == 75);
}

}  // namespace
}  // namespace megatron::testing
