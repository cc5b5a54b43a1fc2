// The update program: who gets weight decay and which learning rate, clipping, loss scale, skipped steps.
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "optim/update_program.h"
#include "program/executor.h"
#include "program/passes.h"
#include "program/trace.h"
#include "tests/catch.h"

namespace megatron {
namespace {

const std::vector<std::string> kNames = {"embedding.word_embeddings.weight",
                                         "decoder.layers.0.input_layernorm.weight",
                                         "decoder.layers.0.self_attention.linear_qkv.weight",
                                         "decoder.layers.0.self_attention.linear_qkv.bias",
                                         "decoder.layers.0.self_attention.q_layernorm.weight",
                                         "output_layer.weight"};

/// A program as differentiate() leaves it, with nothing but parameters and their gradients.
Program training_program(DType dtype) {
  Program program;
  program.name = "train";
  Trace t(program, true);
  for (const std::string& name : kNames) {
    t.parameter(name, dtype, {2, 3}, t.replicated(), Init::constant(0));
    program.parameters.back().gradient =
        t.state(gradient_name(name), accumulation_dtype(dtype), {2, 3}, t.replicated()).id;
  }
  t.state("sum", DType::kF64, {}, t.replicated());
  return program;
}

struct Numbers {
  double lr = 0.1, decoupled_lr = 0.0, weight_decay = 0.5, loss_scale = 1.0, count = 1;
};

class UpdateRun {
 public:
  UpdateRun(const OptimizerConfig& config, DType dtype, const ParamGroupSettings& settings = {})
      : device_(make_cpu_device()), pool_(1) {
    store_ = std::make_unique<Store>(*device_);
    const Program train = training_program(dtype);
    Schedule schedule;
    schedule.lr = {config.lr, 0};
    if (config.decoupled_lr) schedule.decoupled = LrRange{*config.decoupled_lr, 0};
    groups_ = make_param_groups(kNames, schedule, settings);
    begin_ = start(pack(make_begin_program(train, {"sum"})));
    update_ = start(pack(make_update_program(train, config, groups_)));
  }

  Tensor tensor(const std::string& name) const { return store_->find(name); }
  /// First element of a parameter, in double.
  double value(const std::string& name, int64_t i = 0) const {
    const Tensor t = store_->find(name);
    REQUIRE(t);
    return dispatch_floating("test", t.dtype, [&](auto tag) { return static_cast<double>(t.as<decltype(tag)>()[i]); });
  }
  void fill(const std::string& name, double x) {
    const Tensor t = store_->find(name);
    REQUIRE(t);
    dispatch_floating("test", t.dtype, [&](auto tag) {
      for (int64_t i = 0; i < t.numel(); ++i) t.as<decltype(tag)>()[i] = static_cast<decltype(tag)>(x);
    });
  }
  void fill_all(double parameter, double gradient) {
    for (const std::string& name : kNames) {
      fill(name, parameter);
      fill(gradient_name(name), gradient);
      if (tensor(optimizer_state::master(name))) fill(optimizer_state::master(name), parameter);
    }
  }
  void begin() { begin_->run(Phase::kForward); }
  void run(const Numbers& n) {
    *update_->input(update_io::kWeightDecay).as<double>() = n.weight_decay;
    *update_->input(update_io::kInverseScale).as<double>() = 1 / n.loss_scale;
    *update_->input(update_io::kUpdateCount).as<double>() = n.count;
    for (const ParamGroup& group : groups_) {
      *update_->input(update_io::learning_rate(group)).as<double>() = group.is_decoupled_lr ? n.decoupled_lr : n.lr;
    }
    update_->run(Phase::kForward);
  }
  double output(const char* name) const { return *update_->output(name).as<double>(); }
  size_t group_count() const { return groups_.size(); }

 private:
  std::unique_ptr<Executor> start(Plan plan) {
    auto arena = std::make_shared<Buffer>(*device_, plan.arena_bytes());
    Executor::Options options;
    options.pool = &pool_;
    return std::make_unique<Executor>(std::move(plan), *store_, arena, options);
  }

  std::unique_ptr<Device> device_;
  ThreadPool pool_;
  std::unique_ptr<Store> store_;
  std::vector<ParamGroup> groups_;
  std::unique_ptr<Executor> begin_, update_;
};

OptimizerConfig adam(double clip = 0) {
  OptimizerConfig config;
  config.lr = 0.1;
  config.clip_grad = clip;
  return config;
}

OptimizerConfig sgd(double momentum, double clip = 0) {
  OptimizerConfig config = adam(clip);
  config.optimizer = "sgd";
  config.sgd_momentum = momentum;
  return config;
}

}  // namespace

TEST_CASE("update: weight decay reaches matrices alone") {
  UpdateRun run(adam(), DType::kF64);
  CHECK(run.group_count() == 2);
  run.fill_all(2.0, 0.0);
  run.run({});
  // A zero gradient leaves p - lr wd p = 2 (1 - 0.05) where there is decay.
  for (const char* name : {"embedding.word_embeddings.weight", "decoder.layers.0.self_attention.linear_qkv.weight",
                           "output_layer.weight"}) {
    CHECK(run.value(name) == Approx(1.9).epsilon(1e-14));
  }
  for (const char* name : {"decoder.layers.0.input_layernorm.weight", "decoder.layers.0.self_attention.linear_qkv.bias",
                           "decoder.layers.0.self_attention.q_layernorm.weight"}) {
    CHECK(run.value(name) == 2.0);
  }
}

TEST_CASE("update: apply_wd_to_qk_layernorm and undecayed embeddings") {
  UpdateRun run(adam(), DType::kF64, {.apply_wd_to_qk_layernorm = true, .decay_embeddings = false});
  run.fill_all(2.0, 0.0);
  run.run({});
  CHECK(run.value("decoder.layers.0.self_attention.q_layernorm.weight") == Approx(1.9).epsilon(1e-14));
  CHECK(run.value("decoder.layers.0.input_layernorm.weight") == 2.0);
  CHECK(run.value("embedding.word_embeddings.weight") == 2.0);
  CHECK(run.value("output_layer.weight") == Approx(1.9).epsilon(1e-14));
}

TEST_CASE("update: decoupled learning rate for embedding and output layer") {
  OptimizerConfig config = sgd(0.0);
  config.decoupled_lr = 0.01;
  UpdateRun run(config, DType::kF64);
  CHECK(run.group_count() == 3);
  run.fill_all(1.0, 1.0);
  run.run({.lr = 0.1, .decoupled_lr = 0.01, .weight_decay = 0});
  CHECK(run.value("embedding.word_embeddings.weight") == Approx(0.99).epsilon(1e-14));
  CHECK(run.value("output_layer.weight") == Approx(0.99).epsilon(1e-14));
  CHECK(run.value("decoder.layers.0.self_attention.linear_qkv.weight") == Approx(0.9).epsilon(1e-14));
  CHECK(run.value("decoder.layers.0.self_attention.linear_qkv.bias") == Approx(0.9).epsilon(1e-14));
}

TEST_CASE("update: the norm is over all gradients, without loss scale; clipping multiplies by clip / (norm + 1e-6)") {
  const double norm = std::sqrt(36.0 * 9.0);  // six tensors of six threes
  for (double scale : {1.0, 1024.0}) {
    UpdateRun run(sgd(0.0, 2.0), DType::kF32);
    run.fill_all(1.0, 3.0 * scale);
    run.run({.lr = 0.1, .weight_decay = 0, .loss_scale = scale});
    CHECK(run.output(update_io::kNorm) == Approx(norm).epsilon(1e-12));
    CHECK(run.output(update_io::kCoefficient) == Approx(2.0 / (norm + 1e-6) / scale).epsilon(1e-12));
    CHECK(run.output(update_io::kSkip) == 0.0);
    CHECK(run.value(kNames[2]) == Approx(1.0 - 0.1 * 3.0 * 2.0 / (norm + 1e-6)).epsilon(1e-6));
  }
  UpdateRun below(sgd(0.0, 100.0), DType::kF32), off(sgd(0.0, 0.0), DType::kF32);
  for (UpdateRun* run : {&below, &off}) {
    run->fill_all(1.0, 3.0);
    run->run({.lr = 0.1, .weight_decay = 0});
    CHECK(run->output(update_io::kCoefficient) == 1.0);
    CHECK(run->value(kNames[0]) == Approx(0.7).epsilon(1e-6));
  }
}

TEST_CASE("update: AdamW over three steps is its formula") {
  UpdateRun run(adam(), DType::kF64);
  run.fill_all(1.0, 0.0);
  double p = 1.0, q = 1.0, m = 0, v = 0;
  for (int t = 1; t <= 3; ++t) {
    const double g = 0.3 * t - 0.5;
    for (const std::string& name : kNames) run.fill(gradient_name(name), g);
    run.run({.lr = 0.1, .weight_decay = 0.5, .count = static_cast<double>(t)});
    m = 0.9 * m + 0.1 * g;
    v = 0.999 * v + 0.001 * g * g;
    const double step = (m / (1 - std::pow(0.9, t))) / (std::sqrt(v / (1 - std::pow(0.999, t))) + 1e-8);
    p -= 0.1 * (step + 0.5 * p);
    q -= 0.1 * step;
    CHECK(run.value("output_layer.weight", 5) == Approx(p).epsilon(1e-12));
    CHECK(run.value("decoder.layers.0.input_layernorm.weight", 5) == Approx(q).epsilon(1e-12));
  }
}

TEST_CASE("update: SGD with momentum is its formula, weight decay as part of the gradient") {
  UpdateRun run(sgd(0.9), DType::kF64);
  run.fill_all(1.0, 0.25);
  double p = 1.0, buffer = 0;
  for (int t = 1; t <= 3; ++t) {
    run.run({.lr = 0.1, .weight_decay = 0.5, .count = static_cast<double>(t)});
    buffer = 0.9 * buffer + 0.25 + 0.5 * p;
    p -= 0.1 * buffer;
    CHECK(run.value("output_layer.weight") == Approx(p).epsilon(1e-12));
  }
  CHECK(run.value("decoder.layers.0.input_layernorm.weight") == Approx(1 - 0.025 * (1 + 1.9 + 2.71)).epsilon(1e-12));
  CHECK(run.value(optimizer_state::momentum("output_layer.weight")) == Approx(buffer).epsilon(1e-12));
  CHECK_FALSE(run.tensor(optimizer_state::exp_avg("output_layer.weight")));
  CHECK_FALSE(UpdateRun(sgd(0.0), DType::kF64).tensor(optimizer_state::momentum("output_layer.weight")));
}

TEST_CASE("update: 16-bit parameters are the rounding of their master copy") {
  UpdateRun run(sgd(0.0), DType::kBF16);
  run.fill_all(1.0, 1.0);
  for (int t = 1; t <= 3; ++t) run.run({.lr = 1e-3, .weight_decay = 0, .count = static_cast<double>(t)});
  const std::string name = "output_layer.weight";
  CHECK(run.value(optimizer_state::master(name)) == Approx(0.997).epsilon(1e-6));
  CHECK(run.value(name) == static_cast<double>(static_cast<float>(static_cast<BFloat16>(0.997f))));
  CHECK(run.tensor(optimizer_state::master(name)).dtype == DType::kF32);
}

TEST_CASE("update: a gradient that is not finite changes nothing at all") {
  for (double bad : {std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity(),
                     std::numeric_limits<double>::quiet_NaN()}) {
    for (const OptimizerConfig& config : {adam(1.0), sgd(0.9, 1.0)}) {
      UpdateRun run(config, DType::kBF16);
      run.fill_all(1.0, 1.0);
      run.run({});
      std::map<std::string, std::vector<char>> before;
      for (const std::string& name : kNames) {
        for (const std::string& state : {name, optimizer_state::master(name), optimizer_state::exp_avg(name),
                                         optimizer_state::exp_avg_sq(name), optimizer_state::momentum(name)}) {
          const Tensor t = run.tensor(state);
          if (t) before[state].assign(static_cast<char*>(t.data), static_cast<char*>(t.data) + t.bytes());
        }
      }
      CHECK(before.size() >= 18);
      run.tensor(gradient_name(kNames[3])).as<float>()[4] = static_cast<float>(bad);
      run.run({.count = 2});
      CHECK(run.output(update_io::kSkip) == 1.0);
      CHECK_FALSE(std::isfinite(run.output(update_io::kNorm)));
      for (const auto& [name, bytes] : before) {
        const Tensor t = run.tensor(name);
        CHECK(std::vector<char>(static_cast<char*>(t.data), static_cast<char*>(t.data) + t.bytes()) == bytes);
      }
    }
  }
}

TEST_CASE("update: the begin program zeroes gradients and sums, and nothing else") {
  UpdateRun run(adam(), DType::kF32);
  run.fill_all(1.0, 1.0);
  run.fill("sum", 5.0);
  run.fill(optimizer_state::exp_avg(kNames[0]), 7.0);
  run.begin();
  for (const std::string& name : kNames) {
    CHECK(run.value(name) == 1.0);
    for (int64_t i = 0; i < 6; ++i) CHECK(run.value(gradient_name(name), i) == 0.0);
  }
  CHECK(run.value("sum") == 0.0);
  CHECK(run.value(optimizer_state::exp_avg(kNames[0])) == 7.0);
}

}  // namespace megatron
