// A stopped and resumed run is the straight run, bit for bit.
#include <cmath>
#include <cstring>
#include <map>
#include <string>

#include "base/error.h"
#include "tests/catch.h"
#include "tests/train/trainer_helpers.h"
#include "train/trainer.h"

namespace megatron::test {
namespace {

/// Trains in `scratch`/`name`, starting again as long as the run stops resumable; returns the number of starts.
int run_to_end(const Scratch& scratch, const std::string& name, Settings settings) {
  settings["run.dir"] = scratch.path(name);
  int starts = 1;
  while (run_training(load_settings(settings), {}) == ExitCode::kResumable) {
    REQUIRE(starts < 20);
    ++starts;
  }
  return starts;
}

bool same_bits(double a, double b) {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

void check_same_metrics(const std::string& a, const std::string& b, int64_t iterations) {
  const auto one = read_metrics(a), other = read_metrics(b);
  for (int64_t i = 1; i <= iterations; ++i) {
    REQUIRE(one.contains(i));
    REQUIRE(other.contains(i));
    const MetricsLine &x = one.at(i), &y = other.at(i);
    CAPTURE(i, x.lm_loss, y.lm_loss, x.grad_norm, y.grad_norm);
    CHECK(same_bits(x.lm_loss, y.lm_loss));
    CHECK(same_bits(x.grad_norm, y.grad_norm));
    CHECK(same_bits(x.learning_rate, y.learning_rate));
    CHECK(same_bits(x.loss_scale, y.loss_scale));
    CHECK(x.skipped == y.skipped);
    CHECK(x.skipped_iterations == y.skipped_iterations);
    CHECK(x.consumed_samples == y.consumed_samples);
  }
}

/// `iterations` straight, and with stops after every `interval`.
void check_resume(Settings settings, int64_t iterations, int64_t interval) {
  const Scratch scratch;
  CHECK(run_to_end(scratch, "straight", settings) == 1);
  settings["run.exit_interval"] = std::to_string(interval);
  CHECK(run_to_end(scratch, "stopped", settings) == static_cast<int>((iterations + interval - 1) / interval));
  check_same_metrics(scratch.path("straight"), scratch.path("stopped"), iterations);
  const Weights straight = checkpoint_weights(scratch.path("straight/checkpoints"));
  const Weights stopped = checkpoint_weights(scratch.path("stopped/checkpoints"));
  CHECK(straight.size() > 10);
  CHECK(difference(straight, stopped) == "");
  const auto metrics = read_metrics(scratch.path("straight"));
  CHECK(metrics.at(iterations).lm_loss != metrics.at(1).lm_loss);
}

}  // namespace

TEST_CASE("resume: 100 steps straight and 50 + 50 are bitwise equal, fp32 and bf16, dropout on") {
  for (const char* dtype : {"fp32", "bf16"}) {
    CAPTURE(dtype);
    check_resume(tiny({{"precision.params_dtype", dtype}}), 100, 50);
  }
}

TEST_CASE("resume: fp16 with dynamic loss scaling through overflows, stopped in their midst") {
  const Settings settings = tiny({{"precision.params_dtype", "fp16"},
                                  {"precision.loss_scale_window", "5"},
                                  {"precision.hysteresis", "2"},
                                  {"training.train_iters", "60"}});
  check_resume(settings, 60, 7);
}

TEST_CASE("resume: fp16 overflows are skipped and counted, weights unchanged") {
  const Scratch scratch;
  Settings settings =
      tiny({{"precision.params_dtype", "fp16"}, {"training.train_iters", "30"}, {"checkpoint.save_interval", "1"}});
  run_to_end(scratch, "run", settings);
  const auto metrics = read_metrics(scratch.path("run"));
  int64_t skipped = 0;
  double scale = 4294967296.0;
  for (const auto& [iteration, line] : metrics) {
    CAPTURE(iteration);
    CHECK(line.loss_scale <= scale);
    scale = line.loss_scale;
    if (line.skipped) ++skipped;
    CHECK(line.skipped_iterations == skipped);
    CHECK(std::isfinite(line.lm_loss));
  }
  CHECK(metrics.at(1).skipped);
  CHECK(metrics.at(2).skipped);
  CHECK_FALSE(metrics.at(30).skipped);
  CHECK(skipped >= 3);
  CHECK(skipped < 29);
  CHECK(metrics.at(1).loss_scale == 4294967296.0);
  CHECK(metrics.at(2).loss_scale == 4294967296.0);  // hysteresis 2
  CHECK(metrics.at(3).loss_scale == 2147483648.0);
  // The learning rate waits too: it is a function of the samples of successful steps.
  CHECK(metrics.at(1).learning_rate == metrics.at(2).learning_rate);
  const std::string folder = scratch.path("run/checkpoints");
  CHECK(difference(checkpoint_weights(folder, 1), checkpoint_weights(folder, 2)) == "");
  CHECK(difference(checkpoint_weights(folder, 29), checkpoint_weights(folder, 30)) != "");
  CHECK(metrics.at(30).learning_rate > 0);
}

TEST_CASE("resume: sgd, train_samples, constant fp16 scale, 16-bit tied model") {
  check_resume(tiny({{"optimizer.optimizer", "sgd"}, {"training.train_iters", "12"}}), 12, 5);
  check_resume(tiny({{"training.train_iters", ""},
                     {"optimizer.lr_warmup_iters", ""},
                     {"optimizer.lr_warmup_samples", "10"},
                     {"training.train_samples", "48"}}),
               12, 5);
  check_resume(
      tiny({{"precision.params_dtype", "fp16"}, {"precision.loss_scale", "128"}, {"training.train_iters", "12"}}), 12,
      4);
  check_resume(tiny({{"precision.params_dtype", "bf16"},
                     {"model.untie_embeddings_and_output_weights", "false"},
                     {"model.position_embedding_type", "learned_absolute"},
                     {"training.calculate_per_token_loss", "false"},
                     {"training.train_iters", "12"}}),
               12, 6);
}

TEST_CASE("resume: with evaluations, other threads and other recomputation after the stop") {
  const Scratch scratch;
  Settings settings =
      tiny({{"training.train_iters", "12"}, {"training.eval_interval", "3"}, {"training.eval_iters", "2"}});
  run_to_end(scratch, "straight", settings);
  settings["run.dir"] = scratch.path("stopped");
  settings["run.exit_interval"] = "6";
  REQUIRE(run_training(load_settings(settings), {}) == ExitCode::kResumable);
  settings["run.cpu_threads"] = "2";
  settings["training.recompute_granularity"] = "full";
  settings["training.recompute_method"] = "uniform";
  settings["training.recompute_num_layers"] = "1";
  REQUIRE(run_training(load_settings(settings), {}) == ExitCode::kDone);
  check_same_metrics(scratch.path("straight"), scratch.path("stopped"), 12);
  CHECK(difference(checkpoint_weights(scratch.path("straight/checkpoints")),
                   checkpoint_weights(scratch.path("stopped/checkpoints"))) == "");
  const auto a = read_metrics(scratch.path("straight")), b = read_metrics(scratch.path("stopped"));
  for (int64_t i : {3, 6, 9, 12}) {
    REQUIRE(a.at(i).valid_lm_loss);
    CHECK(a.at(i).valid_lm_loss == b.at(i).valid_lm_loss);
  }
}

TEST_CASE("resume: a finished run has nothing left to do; a longer one goes on") {
  const Scratch scratch;
  Settings settings = tiny(
      {{"training.train_iters", "4"}, {"optimizer.lr_decay_style", "constant"}, {"optimizer.lr_decay_iters", "100"}});
  run_to_end(scratch, "run", settings);
  const Weights first = checkpoint_weights(scratch.path("run/checkpoints"));
  run_to_end(scratch, "run", settings);
  CHECK(read_metrics(scratch.path("run")).size() == 4);
  CHECK(difference(first, checkpoint_weights(scratch.path("run/checkpoints"))) == "");
  settings["training.train_iters"] = "6";
  settings["optimizer.override_opt_param_scheduler"] = "true";
  run_to_end(scratch, "run", settings);
  CHECK(read_metrics(scratch.path("run")).size() == 6);
  CHECK(difference(first, checkpoint_weights(scratch.path("run/checkpoints"))) != "");
}

TEST_CASE("resume: finetune starts anew from weights, and the same command goes on with the run that it began") {
  const Scratch scratch;
  run_to_end(scratch, "base", tiny({{"training.train_iters", "5"}}));
  Settings settings = tiny({{"training.train_iters", "8"},
                            {"checkpoint.load", scratch.path("base/checkpoints")},
                            {"checkpoint.ckpt_step", "5"},
                            {"checkpoint.finetune", "true"}});
  CHECK(run_to_end(scratch, "straight", settings) == 1);
  const auto straight = read_metrics(scratch.path("straight")), base = read_metrics(scratch.path("base"));
  CHECK(straight.at(1).consumed_samples == 4);
  CHECK(straight.at(1).lm_loss != base.at(1).lm_loss);  // other weights
  CHECK(straight.at(1).learning_rate == base.at(1).learning_rate);
  settings["run.exit_interval"] = "3";
  CHECK(run_to_end(scratch, "stopped", settings) == 3);
  check_same_metrics(scratch.path("straight"), scratch.path("stopped"), 8);
  CHECK(difference(checkpoint_weights(scratch.path("straight/checkpoints")),
                   checkpoint_weights(scratch.path("stopped/checkpoints"))) == "");
}

}  // namespace megatron::test
