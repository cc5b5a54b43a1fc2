// Single steps: threads, accumulation, non-finite values, and that evaluation leaves training alone.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "base/file_io.h"
#include "program/passes.h"
#include "tests/catch.h"
#include "tests/train/trainer_helpers.h"
#include "train/evaluate.h"
#include "train/trainer.h"

namespace megatron::test {
namespace {

Settings width64(const Settings& changes) {
  Settings s = tiny(changes);
  s["model.hidden_size"] = "64";
  s["model.ffn_hidden_size"] = "96";
  s["model.seq_length"] = "40";
  s["model.vocab_size"] = "300";
  return s;
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("step: one and more threads give the same bits") {
  for (const char* dtype : {"fp32", "bf16", "fp64"}) {
    CAPTURE(dtype);
    EngineRun one(width64({{"precision.params_dtype", dtype}, {"run.cpu_threads", "1"}}));
    EngineRun two(width64({{"precision.params_dtype", dtype}, {"run.cpu_threads", "2"}}));
    EngineRun three(width64({{"precision.params_dtype", dtype}, {"run.cpu_threads", "3"}}));
    CHECK(one.engine().pool().threads() == 1);
    CHECK(three.engine().pool().threads() == 3);
    CHECK(difference(one.state(), two.state()) == "");
    const auto records = one.steps(3);
    CHECK(two.steps(3) == records);
    CHECK(three.steps(3) == records);
    CHECK(difference(one.state(), two.state()) == "");
    CHECK(difference(one.state(), three.state()) == "");
  }
}

TEST_CASE("step: gradient accumulation does not depend on the micro-batch, with dropout on") {
  const auto train = [](const char* micro_batch) {
    EngineRun run(tiny({{"precision.params_dtype", "fp64"},
                        {"training.micro_batch_size", micro_batch},
                        {"training.global_batch_size", "8"},
                        {"optimizer.lr", "0.001"}}));
    std::vector<double> values;
    for (const StepRecord& r : run.steps(4)) values.insert(values.end(), {r.loss, r.grad_norm});
    for (const ParameterInfo& p : run.engine().train_program().parameters) {
      const Tensor t = run.engine().store().find(run.engine().train_program().value(p.gradient).name);
      values.insert(values.end(), t.as<double>(), t.as<double>() + t.numel());
    }
    return values;
  };
  const std::vector<double> reference = train("8");
  for (const char* micro_batch : {"1", "2", "4"}) {
    CAPTURE(micro_batch);
    const std::vector<double> values = train(micro_batch);
    REQUIRE(values.size() == reference.size());
    double worst = 0;
    for (size_t i = 0; i < values.size(); ++i) worst = std::max(worst, std::abs(values[i] - reference[i]));
    CHECK(worst < 1e-12);
  }
}

TEST_CASE("step: a NaN in an embedding row skips the step, and the place is named") {
  EngineRun run(tiny({{"training.micro_batch_size", "4"}}));
  const std::vector<Batch> batches = run.batches(2);
  run.step(1);
  // The third sample's first token, unlike those of the two before; its row is poisoned.
  const int64_t row = batches[0].tokens[2];
  REQUIRE(row != batches[0].tokens[0]);
  REQUIRE(row != batches[0].tokens[1]);
  REQUIRE(batches[0].sample_ids[2] == 6);
  const Tensor table = run.engine().store().find("embedding.word_embeddings.weight");
  table.as<float>()[row * 16 + 5] = std::numeric_limits<float>::quiet_NaN();
  const Weights before = run.state();
  const StepRecord record = run.step_on(batches, 2);
  CHECK(record.skipped);
  CHECK_FALSE(std::isfinite(record.grad_norm));
  CHECK(difference(before, run.state()) == "");
  run.engine().begin_step();
  const std::string place = run.engine().locate_non_finite(batches[0], 1.0 / 48, 2);
  INFO(place);
  CHECK(contains(place, "nan in embedding"));
  CHECK(contains(place, "phase F"));
  CHECK(contains(place, "operation embedding"));
  CHECK(contains(place, "sample 6"));

  table.as<float>()[row * 16 + 5] = 0.0f;
  run.engine().begin_step();
  CHECK(run.engine().locate_non_finite(batches[0], 1.0 / 48, 2) == "");
  CHECK_FALSE(run.step_on(batches, 2).skipped);
}

TEST_CASE("step: infinite weights inside a layer are found there") {
  EngineRun run(tiny());
  const Tensor weight = run.engine().store().find("decoder.layers.1.mlp.linear_fc2.weight");
  weight.as<float>()[7] = std::numeric_limits<float>::infinity();
  const Weights before = run.state();
  CHECK(run.step(1).skipped);
  CHECK(difference(before, run.state()) == "");
  run.engine().begin_step();
  const std::string place = run.engine().locate_non_finite(run.batches(1)[0], 1.0 / 48, 1);
  INFO(place);
  CHECK(contains(place, "phase F"));
  CHECK(contains(place, "decoder.layers.1.mlp"));
  CHECK(contains(place, "operation linear"));
}

TEST_CASE("trainer: a run goes on past non-finite steps when it is told to, else it ends there") {
  const Scratch scratch;
  // A learning rate that blows the weights up within a few steps.
  Settings settings = tiny({{"run.dir", scratch.path("on")},
                            {"optimizer.lr", "1e30"},
                            {"optimizer.lr_decay_style", "constant"},
                            {"optimizer.lr_warmup_iters", "0"},
                            {"training.check_for_nan_in_loss_and_grad", "false"},
                            {"training.train_iters", "6"}});
  CHECK(run_training(load_settings(settings), {}) == ExitCode::kDone);
  const auto metrics = read_metrics(scratch.path("on"));
  CHECK_FALSE(metrics.at(1).skipped);
  CHECK(metrics.at(6).skipped);
  CHECK(metrics.at(6).skipped_iterations >= 3);
  CHECK(metrics.at(6).consumed_samples == 24);
  const std::string log = read_file(scratch.path("on/logs/rank-0000.log"));
  CHECK(contains(log, "the step was skipped, weights are unchanged"));
  CHECK(contains(log, "the first value that is not finite: "));
  CHECK(contains(log, ", operation "));
  CHECK(contains(log, "sample"));
  for (const auto& [name, bytes] : checkpoint_weights(scratch.path("on/checkpoints"))) {
    const auto* values = reinterpret_cast<const float*>(bytes.data());
    CAPTURE(name);
    CHECK(std::all_of(values, values + bytes.size() / sizeof(float), [](float x) { return std::isfinite(x); }));
  }

  settings["run.dir"] = scratch.path("ends");
  settings["training.check_for_nan_in_loss_and_grad"] = "true";
  std::string message;
  try {
    run_training(load_settings(settings), {});
  } catch (const DataError& error) {
    message = error.what();
  }
  INFO(message);
  CHECK(contains(message, "not finite"));
  CHECK(contains(message, "operation "));
  CHECK(contains(message, "check_for_nan_in_loss_and_grad"));
  const auto ended = read_metrics(scratch.path("ends"));
  CHECK(ended.rbegin()->second.skipped);
  CHECK(ended.size() < 6);
}

TEST_CASE("trainer: a loss scale is in neither the loss nor the gradient norm nor the update") {
  const Scratch scratch;
  const auto train = [&](const std::string& name, const Settings& changes) {
    Settings settings =
        tiny({{"run.dir", scratch.path(name)}, {"training.train_iters", "5"}, {"optimizer.optimizer", "sgd"}});
    for (const auto& [key, value] : changes) settings[key] = value;
    run_training(load_settings(settings), {});
    return read_metrics(scratch.path(name));
  };
  const auto plain = train("fp32", {});
  const auto scaled = train("fp16", {{"precision.params_dtype", "fp16"}, {"precision.loss_scale", "1024"}});
  for (int64_t i = 1; i <= 5; ++i) {
    CHECK(scaled.at(i).loss_scale == 1024);
    CHECK(scaled.at(i).lm_loss == Approx(plain.at(i).lm_loss).epsilon(0.01));
    CHECK(scaled.at(i).grad_norm == Approx(plain.at(i).grad_norm).epsilon(0.03));
  }
}

TEST_CASE("step: a skip list reads the batch and trains on nothing") {
  const Scratch scratch;
  const auto train = [&](const std::string& name, const std::string& iterations, const std::string& skip) {
    run_training(load_settings(tiny({{"run.dir", scratch.path(name)},
                                     {"optimizer.lr_decay_iters", "100"},
                                     {"optimizer.lr_warmup_iters", "0"},
                                     {"training.iterations_to_skip", skip},
                                     {"training.train_iters", iterations}})),
                 {});
    return checkpoint_weights(scratch.path(name + "/checkpoints"));
  };
  const Weights skipped = train("run", "3", "[2, 3]"), one = train("one", "1", "[]"), three = train("three", "3", "[]");
  CHECK(difference(skipped, one) == "");
  CHECK(difference(skipped, three) != "");
  const auto metrics = read_metrics(scratch.path("run"));
  CHECK(metrics.at(3).skipped);
  CHECK(metrics.at(3).skipped_iterations == 2);
  CHECK(std::isfinite(metrics.at(1).lm_loss));
  CHECK(std::isnan(metrics.at(3).lm_loss));  // null: nothing was computed
  CHECK(std::isnan(metrics.at(3).grad_norm));
  CHECK(metrics.at(3).consumed_samples == 12);
}

TEST_CASE("evaluation: no dropout, the same value every time, the loss of the data") {
  EngineRun run(tiny({{"model.hidden_dropout", "0.5"}, {"model.attention_dropout", "0.5"}}));
  EngineRun without(tiny({{"model.hidden_dropout", "0"}, {"model.attention_dropout", "0"}}));
  const auto value = [](EngineRun& r, int64_t samples) {
    return evaluate(r.engine(), r.data().splits.valid, r.data().batch_options, samples);
  };
  const double first = value(run, 8);
  CHECK(value(run, 8) == first);
  CHECK(value(without, 8) == Approx(first).epsilon(1e-6));
  CHECK(value(run, 4) != first);
  // Two programs, one loss: the training program without dropout says the same.
  double sum = 0;
  without.engine().begin_step();
  for (int64_t i = 0; i < 8; i += 2) {
    without.engine().accumulate({make_batch(*without.data().splits.valid, {i, i + 1}, without.data().batch_options)},
                                {1.0}, 1);
  }
  sum = without.engine().loss_sum();
  CHECK(sum / (8 * 12) == Approx(first).epsilon(1e-6));
  // With dropout the training program differs from it.
  run.engine().begin_step();
  for (int64_t i = 0; i < 8; i += 2) {
    run.engine().accumulate({make_batch(*run.data().splits.valid, {i, i + 1}, run.data().batch_options)}, {1.0}, 1);
  }
  CHECK(std::abs(run.engine().loss_sum() / (8 * 12) - first) > 1e-4);
}

TEST_CASE("evaluation does not change training") {
  const Scratch scratch;
  for (const char* name : {"often", "never"}) {
    Settings settings = tiny({{"run.dir", scratch.path(name)}, {"training.train_iters", "8"}});
    if (std::string(name) == "often") {
      settings["training.eval_interval"] = "1";
      settings["training.eval_iters"] = "2";
    }
    REQUIRE(run_training(load_settings(settings), {}) == ExitCode::kDone);
  }
  const auto often = read_metrics(scratch.path("often")), never = read_metrics(scratch.path("never"));
  for (int64_t i = 1; i <= 8; ++i) {
    CHECK(often.at(i).lm_loss == never.at(i).lm_loss);
    CHECK(often.at(i).grad_norm == never.at(i).grad_norm);
    CHECK(often.at(i).valid_lm_loss);
    CHECK_FALSE(never.at(i).valid_lm_loss);
  }
  CHECK(difference(checkpoint_weights(scratch.path("often/checkpoints")),
                   checkpoint_weights(scratch.path("never/checkpoints"))) == "");
  // Before the first step, after every step, and the test data at the end.
  CHECK(often.at(0).valid_lm_loss);
  CHECK(often.at(0).valid_lm_loss != often.at(8).valid_lm_loss);
  CHECK(often.at(8).test_lm_loss);
  CHECK_FALSE(often.at(7).test_lm_loss);
  CHECK_FALSE(never.contains(0));
  CHECK(*often.at(0).valid_lm_loss == Approx(std::log(61.0)).epsilon(0.02));
}

TEST_CASE("evaluation: without an interval before the first step and at the end; skip_train evaluates alone") {
  const Scratch scratch;
  Settings settings =
      tiny({{"run.dir", scratch.path("run")}, {"training.train_iters", "4"}, {"training.eval_iters", "1"}});
  run_training(load_settings(settings), {});
  auto metrics = read_metrics(scratch.path("run"));
  REQUIRE(metrics.contains(0));
  CHECK(metrics.at(0).valid_lm_loss);
  CHECK_FALSE(metrics.at(2).valid_lm_loss);
  CHECK(metrics.at(4).valid_lm_loss);
  const Weights before = checkpoint_weights(scratch.path("run/checkpoints"));
  const double last = *metrics.at(4).valid_lm_loss;
  settings["training.skip_train"] = "true";
  CHECK(run_training(load_settings(settings), {}) == ExitCode::kDone);
  metrics = read_metrics(scratch.path("run"));
  CHECK(metrics.rbegin()->second.valid_lm_loss == last);
  CHECK(difference(before, checkpoint_weights(scratch.path("run/checkpoints"))) == "");
}

TEST_CASE("skip_train without a checkpoint saves the initial weights, for other programs to start from") {
  const Scratch scratch;
  const Settings settings = tiny({{"run.dir", scratch.path("run")},
                                  {"training.skip_train", "true"},
                                  {"training.eval_iters", "1"},
                                  {"checkpoint.save_optim", "false"}});
  CHECK(run_training(load_settings(settings), {}) == ExitCode::kDone);
  const Weights saved = checkpoint_weights(scratch.path("run/checkpoints"), 0);
  CHECK(saved.size() > 10);
  Weights start;
  for (auto [name, bytes] : EngineRun(tiny()).state()) {
    if (!saved.contains(name)) continue;
    bytes.resize(saved.at(name).size());  // padding rows of the vocabulary are not saved
    start[name] = bytes;
  }
  CHECK(difference(start, saved) == "");
  CHECK(saved.contains("decoder.layers.1.self_attention.linear_qkv.weight"));
  CHECK_FALSE(saved.contains("optimizer.state.exp_avg.output_layer.weight"));
}

TEST_CASE("evaluation counts exactly the samples asked for, whatever the micro-batch") {
  const Settings fp64 = {{"precision.params_dtype", "fp64"}, {"training.global_batch_size", "4"}};
  Settings one = fp64, four = fp64;
  one["training.micro_batch_size"] = "1";
  four["training.micro_batch_size"] = "4";
  EngineRun a(tiny(one)), b(tiny(four));
  for (const int64_t samples : {1, 4, 6}) {
    const double loss = evaluate(a.engine(), a.data().splits.valid, a.data().batch_options, samples);
    CHECK(evaluate(b.engine(), b.data().splits.valid, b.data().batch_options, samples) == Approx(loss).epsilon(1e-12));
  }
  CHECK(evaluate(a.engine(), a.data().splits.valid, a.data().batch_options, 4) !=
        evaluate(a.engine(), a.data().splits.valid, a.data().batch_options, 6));
}

}  // namespace megatron::test
