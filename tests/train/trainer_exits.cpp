// How runs stop, and what refuses to start.
#include <sys/types.h>
#include <unistd.h>
#include <csignal>

#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "base/error.h"
#include "base/file_io.h"
#include "tests/catch.h"
#include "tests/train/trainer_helpers.h"
#include "train/trainer.h"

namespace megatron::test {
namespace {

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

nlohmann::json exit_status(const std::string& run_dir) {
  return nlohmann::json::parse(read_file(run_dir + "/exit_status.json"));
}

struct Failure {
  int code = 0;
  std::string message;
};

/// Runs and gives the error; code 0 when there was none.
Failure failure_of(const Settings& settings) {
  try {
    run_training(load_settings(settings), {});
  } catch (const Error& error) {
    return {static_cast<int>(error.code()), error.what()};
  }
  return {};
}

Settings short_run(const Scratch& scratch, const std::string& name, const Settings& changes = {}) {
  Settings s = tiny(changes);
  s["run.dir"] = scratch.path(name);
  if (!changes.contains("training.train_iters")) s["training.train_iters"] = "6";
  return s;
}

void flip_byte(const std::filesystem::path& path, std::streamoff at) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(at);
  const char byte = static_cast<char>(file.get());
  file.seekp(at);
  file.put(static_cast<char>(byte ^ 0x40));
}

}  // namespace

TEST_CASE("exit: exit_interval saves, says so and can be resumed") {
  const Scratch scratch;
  const Settings settings = short_run(scratch, "run", {{"run.exit_interval", "4"}});
  CHECK(run_training(load_settings(settings), {}) == ExitCode::kResumable);
  CHECK(path_exists(scratch.path("run/checkpoints/iter_0000004/manifest.json")));
  nlohmann::json status = exit_status(scratch.path("run"));
  CHECK(status.at("code") == 75);
  CHECK(status.at("iteration") == 4);
  CHECK(status.at("rank") == 0);
  CHECK(contains(status.at("reason").get<std::string>(), "exit_interval"));
  CHECK(run_training(load_settings(settings), {}) == ExitCode::kDone);
  status = exit_status(scratch.path("run"));
  CHECK(status.at("code") == 0);
  CHECK(status.at("iteration") == 6);
  for (const char* file :
       {"resolved.yaml", "plan.txt", "env.txt", "command.txt", "metrics.jsonl", "logs/rank-0000.log"}) {
    CHECK(path_exists(scratch.path("run/") + file));
  }
}

TEST_CASE("exit: a signal stops after the step, with a checkpoint") {
  const Scratch scratch;
  for (int signal : {SIGUSR1, SIGTERM}) {
    const std::string name = "run" + std::to_string(signal);
    const Settings settings = short_run(scratch, name, {{"training.train_iters", "1000000"}});
    std::thread sender([&] {
      const std::string metrics = scratch.path(name + "/metrics.jsonl");
      while (!path_exists(metrics) || read_file(metrics).size() < 1000)
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      ::kill(::getpid(), signal);
    });
    const ExitCode code = run_training(load_settings(settings), {});
    sender.join();
    CHECK(code == ExitCode::kResumable);
    const nlohmann::json status = exit_status(scratch.path(name));
    CHECK(status.at("code") == 75);
    CHECK(contains(status.at("reason").get<std::string>(), signal == SIGUSR1 ? "SIGUSR1" : "SIGTERM"));
    const int64_t iteration = status.at("iteration").get<int64_t>();
    CHECK(iteration > 0);
    CHECK(read_metrics(scratch.path(name)).rbegin()->first == iteration);
    CHECK_FALSE(checkpoint_weights(scratch.path(name + "/checkpoints")).empty());
  }
}

TEST_CASE("exit: the duration ends a run after the step in which it is over") {
  const Scratch scratch;
  const Settings settings =
      short_run(scratch, "run", {{"run.exit_duration_in_mins", "0.0005"}, {"training.train_iters", "1000000"}});
  CHECK(run_training(load_settings(settings), {}) == ExitCode::kResumable);
  CHECK(contains(exit_status(scratch.path("run")).at("reason").get<std::string>(), "exit_duration_in_mins"));
}

TEST_CASE("load: finetuning from nothing is refused") {
  const Scratch scratch;
  create_directories(scratch.path("empty"));
  Failure failure = failure_of(
      short_run(scratch, "a", {{"checkpoint.load", scratch.path("empty")}, {"checkpoint.finetune", "true"}}));
  CHECK(failure.code == 3);
  CHECK(contains(failure.message, "finetune"));
  failure = failure_of(short_run(scratch, "b", {{"checkpoint.finetune", "true"}}));
  CHECK(failure.code == 2);
  CHECK(contains(failure.message, "checkpoint.load"));
}

TEST_CASE("load: an empty folder starts from scratch and says so, or is refused") {
  const Scratch scratch;
  create_directories(scratch.path("empty"));
  Settings settings = short_run(scratch, "run", {{"checkpoint.load", scratch.path("empty")}});
  CHECK(run_training(load_settings(settings), {}) == ExitCode::kDone);
  CHECK(contains(read_file(scratch.path("run/logs/rank-0000.log")), "holds no checkpoint; starting from scratch"));

  settings["run.dir"] = scratch.path("refused");
  settings["checkpoint.exit_on_missing_checkpoint"] = "true";
  const Failure failure = failure_of(settings);
  CHECK(failure.code == 3);
  CHECK(contains(failure.message, scratch.path("empty")));
  CHECK(contains(failure.message, "exit_on_missing_checkpoint"));
  const nlohmann::json status = exit_status(scratch.path("refused"));
  CHECK(status.at("code") == 3);
  CHECK(status.at("phase") == "load");
  CHECK(contains(status.at("reason").get<std::string>(), "exit_on_missing_checkpoint"));
}

TEST_CASE("load: the newest damaged checkpoint is passed over; all damaged is an error") {
  const Scratch scratch;
  Settings settings = short_run(scratch, "run", {{"checkpoint.save_interval", "3"}});
  REQUIRE(run_training(load_settings(settings), {}) == ExitCode::kDone);
  const Weights straight = checkpoint_weights(scratch.path("run/checkpoints"));
  const auto metrics = read_metrics(scratch.path("run"));
  std::filesystem::path shards[2];
  for (int i = 0; i < 2; ++i) {
    const std::string folder = scratch.path(i == 0 ? "run/checkpoints/iter_0000006" : "run/checkpoints/iter_0000003");
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      if (entry.path().extension() == ".safetensors") shards[i] = entry.path();
    }
    REQUIRE(!shards[i].empty());
  }
  flip_byte(shards[0], 5000);
  // Iterations 4 to 6 are trained again, to the same bits.
  CHECK(run_training(load_settings(settings), {}) == ExitCode::kDone);
  CHECK(contains(read_file(scratch.path("run/logs/rank-0000.log")), "iteration 3"));
  CHECK(difference(straight, checkpoint_weights(scratch.path("run/checkpoints"))) == "");
  CHECK(read_metrics(scratch.path("run")).at(6).lm_loss == metrics.at(6).lm_loss);

  flip_byte(shards[0], 5000);
  flip_byte(shards[1], 5000);
  const Failure failure = failure_of(settings);
  CHECK(failure.code == 3);
  CHECK(contains(failure.message, "iter_0000003"));
  CHECK(contains(failure.message, "iter_0000006"));
  CHECK(exit_status(scratch.path("run")).at("code") == 3);
}

TEST_CASE("load: another tokenizer, changed settings and a step that is not there are refused") {
  const Scratch scratch;
  const Settings settings = short_run(scratch, "run");
  REQUIRE(run_training(load_settings(settings), {}) == ExitCode::kDone);
  const Weights before = checkpoint_weights(scratch.path("run/checkpoints"));

  const auto changed = [&](const std::string& key, const std::string& value) {
    Settings s = settings;
    s["training.train_iters"] = "8";
    s["optimizer.override_opt_param_scheduler"] = "true";
    s[key] = value;
    return failure_of(s);
  };
  Failure failure = changed("data.tokenizer_type", "ByteTokenizer");
  CHECK(failure.code == 2);  // more ids than model.vocab_size
  Settings other = settings;
  other["data.tokenizer_type"] = "ByteTokenizer";
  other["model.vocab_size"] = "300";
  failure = failure_of(other);
  CHECK(failure.code == 3);
  CHECK(contains(failure.message, "tokenizer"));
  CHECK(contains(failure.message, "manifest.json"));

  for (const auto& [key, value] : Settings{{"model.hidden_size", "32"},
                                           {"model.num_layers", "3"},
                                           {"model.norm_epsilon", "0.001"},
                                           {"model.seq_length", "16"},
                                           {"run.seed", "5"},
                                           {"optimizer.optimizer", "sgd"},
                                           {"training.global_batch_size", "8"},
                                           {"precision.params_dtype", "bf16"}}) {
    CAPTURE(key);
    failure = changed(key, value);
    CHECK(failure.code == 2);
    CHECK(contains(failure.message, key));
    CHECK(contains(failure.message, "cannot resume"));
  }
  // A schedule that is another function needs one of two switches.
  Settings schedule = settings;
  schedule["optimizer.lr"] = "0.02";
  failure = failure_of(schedule);
  CHECK(failure.code == 2);
  CHECK(contains(failure.message, "override_opt_param_scheduler"));

  Settings missing = short_run(scratch, "other",
                               {{"checkpoint.load", scratch.path("run/checkpoints")}, {"checkpoint.ckpt_step", "5"}});
  failure = failure_of(missing);
  CHECK(failure.code == 3);
  CHECK(contains(failure.message, "6"));
  CHECK(difference(before, checkpoint_weights(scratch.path("run/checkpoints"))) == "");
  CHECK(changed("model.hidden_dropout", "0.2").code == 0);
}

TEST_CASE("load: from another run's folder, and without its optimizer") {
  const Scratch scratch;
  REQUIRE(run_training(load_settings(short_run(scratch, "base")), {}) == ExitCode::kDone);
  Settings settings = short_run(scratch, "next",
                                {{"checkpoint.load", scratch.path("base/checkpoints")},
                                 {"training.train_iters", "8"},
                                 {"optimizer.override_opt_param_scheduler", "true"}});
  CHECK(failure_of(settings).code == 0);
  const auto next = read_metrics(scratch.path("next"));
  CHECK(next.begin()->first == 7);
  CHECK(next.at(7).consumed_samples == 28);
  settings["run.dir"] = scratch.path("fresh");
  settings["checkpoint.load_optim"] = "false";
  CHECK(failure_of(settings).code == 0);
  const auto fresh = read_metrics(scratch.path("fresh"));
  CHECK(fresh.at(7).lm_loss == next.at(7).lm_loss);
  CHECK(fresh.at(8).lm_loss != next.at(8).lm_loss);
  CHECK(difference(checkpoint_weights(scratch.path("fresh/checkpoints")),
                   checkpoint_weights(scratch.path("next/checkpoints"))) != "");
}

TEST_CASE("load: a checkpoint without optimizer state says how to go on without it") {
  const Scratch scratch;
  const Settings settings = short_run(scratch, "run", {{"checkpoint.save_optim", "false"}, {"run.exit_interval", "3"}});
  REQUIRE(run_training(load_settings(settings), {}) == ExitCode::kResumable);
  Settings again = settings;
  again.erase("run.exit_interval");
  const Failure failure = failure_of(again);
  INFO(failure.message);
  CHECK(failure.code == 3);
  CHECK(contains(failure.message, "checkpoint.save_optim: false; set checkpoint.load_optim: false"));
  again["checkpoint.load_optim"] = "false";
  CHECK(failure_of(again).code == 0);
  CHECK(read_metrics(scratch.path("run")).begin()->first == 1);
  CHECK(contains(read_file(scratch.path("run/logs/rank-0000.log")), "optimizer state not loaded"));
}

TEST_CASE("load: bf16 weights of a checkpoint without optimizer state become the master copy") {
  const Scratch scratch;
  const Settings bf16 = {{"precision.params_dtype", "bf16"}, {"checkpoint.save_optim", "false"}};
  REQUIRE(run_training(load_settings(short_run(scratch, "base", bf16)), {}) == ExitCode::kDone);
  const Weights base = checkpoint_weights(scratch.path("base/checkpoints"));
  for (const auto& [name, bytes] : base) CHECK_FALSE(contains(name, "optimizer"));
  Settings settings = short_run(scratch, "tuned", bf16);
  settings["checkpoint.load"] = scratch.path("base/checkpoints");
  settings["optimizer.lr"] = "1e-12";  // too small for any change of a bf16 weight that has its own master copy
  settings["optimizer.weight_decay"] = "0";
  settings["checkpoint.finetune"] = "true";
  REQUIRE(failure_of(settings).code == 0);
  CHECK(difference(base, checkpoint_weights(scratch.path("tuned/checkpoints"))) == "");
}

TEST_CASE("load: weights of another precision are rounded, and come from the master copy where that is finer") {
  const auto values = [](const Weights& weights, const std::string& name) {
    std::vector<float> result(weights.at(name).size() / sizeof(float));
    std::memcpy(result.data(), weights.at(name).data(), weights.at(name).size());
    return result;
  };
  const std::string name = "decoder.layers.1.mlp.linear_fc1.weight";
  for (const auto& [from, to] : Settings{{"bf16", "fp32"}, {"fp32", "bf16"}, {"fp16", "bf16"}}) {
    CAPTURE(from, to);
    const Scratch scratch;
    const Settings still = {{"optimizer.lr", "1e-30"}, {"optimizer.weight_decay", "0"}};  // nothing is trained
    Settings settings = short_run(scratch, "base", still);
    settings["precision.params_dtype"] = from;
    REQUIRE(failure_of(settings).code == 0);
    settings = short_run(scratch, "tuned", still);
    settings["precision.params_dtype"] = to;
    settings["checkpoint.load"] = scratch.path("base/checkpoints");
    CHECK(failure_of(settings).code == 2);  // going on in another precision is no resume
    settings["checkpoint.finetune"] = "true";
    const Failure failure = failure_of(settings);
    INFO(failure.message);
    REQUIRE(failure.code == 0);
    const Weights base = checkpoint_weights(scratch.path("base/checkpoints"));
    const Weights tuned = checkpoint_weights(scratch.path("tuned/checkpoints"));
    if (from == "bf16") {
      CHECK(values(tuned, name) == values(base, "optimizer.state.fp32_param." + name));
      CHECK(base.at(name).size() * 2 == tuned.at(name).size());
    } else {  // the new master copy is the rounded parameter
      const std::vector<float> wide = values(tuned, "optimizer.state.fp32_param." + name);
      const std::vector<float> source = values(base, from == "fp32" ? name : "optimizer.state.fp32_param." + name);
      REQUIRE(wide.size() == source.size());
      size_t same = 0;
      for (size_t i = 0; i < wide.size(); ++i) {
        CHECK(std::abs(wide[i] - source[i]) <= std::abs(source[i]) * 0.005F);
        same += static_cast<float>(BFloat16(source[i])) == wide[i];
      }
      CHECK(same > wide.size() * 9 / 10);  // all but those that were rounded twice
    }
  }
}

TEST_CASE("load: load_rng: false, or a checkpoint saved with save_rng: false, goes on with another seed") {
  for (const char* loosened : {"checkpoint.load_rng", "checkpoint.save_rng"}) {
    CAPTURE(loosened);
    const bool by_saver = std::string(loosened) == "checkpoint.save_rng";
    const Scratch scratch;
    Settings settings = short_run(scratch, "run", {{"run.exit_interval", "3"}});
    if (by_saver) settings[loosened] = "false";
    REQUIRE(run_training(load_settings(settings), {}) == ExitCode::kResumable);
    settings.erase(loosened);
    std::filesystem::copy(scratch.path("run"), scratch.path("other"), std::filesystem::copy_options::recursive);
    REQUIRE(run_training(load_settings(settings), {}) == ExitCode::kDone);
    settings["run.dir"] = scratch.path("other");
    settings["run.seed"] = "78";
    if (!by_saver) CHECK(failure_of(settings).code == 2);
    if (!by_saver) settings[loosened] = "false";
    CHECK(failure_of(settings).code == 0);
    CHECK(contains(read_file(scratch.path("other/logs/rank-0000.log")), "run.seed: 77 -> 78\n"));
    const auto run = read_metrics(scratch.path("run")), other = read_metrics(scratch.path("other"));
    CHECK(run.at(3).lm_loss == other.at(3).lm_loss);
    CHECK(run.at(4).lm_loss != other.at(4).lm_loss);
  }
}

}  // namespace megatron::test
