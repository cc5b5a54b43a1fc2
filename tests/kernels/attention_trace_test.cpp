// A whole attention block as modules write it: projection, views of it, rotation, attention, head. Its gradient goes
// through strided operands and joined results.
#include <cmath>
#include <map>
#include <memory>
#include <string>

#include "base/philox.h"
#include "base/strings.h"
#include "base/thread_pool.h"
#include "kernels/attention/attention.h"
#include "kernels/linear/linear.h"
#include "kernels/lm_head_loss/lm_head_loss.h"
#include "kernels/rope/rope.h"
#include "program/executor.h"
#include "program/passes.h"
#include "program/views.h"
#include "tests/catch.h"

namespace megatron {
namespace {

constexpr int64_t kS = 6, kB = 2, kC = 5, kG = 2, kQ = 3, kD = 4, kV = 9;

Program build(double dropout) {
  Program program;
  Trace t(program, true);
  const auto parameter = [&](const std::string& name, const Dims& shape) {
    return t.parameter(name, DType::kF64, shape, t.replicated(), Init::constant(0));
  };
  const auto input = [&](const std::string& name, DType dtype, const Dims& shape) {
    return t.input(name, dtype, shape, t.replicated());
  };
  const Value position = input("position", DType::kI32, {kS, kB});
  const Value qkv = linear(t, parameter("x", {kS, kB, kC}), parameter("qkv", {kG, kQ + 2, kD, kC}),
                           parameter("bias", {kG, kQ + 2, kD}), {.out_dims = 3});
  const std::vector<Value> parts = split(t, qkv, 3, {kQ, 1, 1});
  RopeSpec spec;
  spec.head_dim = kD;
  const Value q = rope(t, parts[0], position, spec);
  const Value k = rope(t, reshape(t, parts[1], {kS, kB, kG, kD}), position, spec);
  AttentionOptions options;
  options.softmax_scale = 0.5;
  options.dropout = dropout;
  options.name = "core_attention";
  AttentionExtras extras;
  if (dropout > 0) {
    extras = {{}, input("step", DType::kI64, {}), input("sample", DType::kI64, {kB}), position};
  }
  const Value out = attention(t, q, k, reshape(t, parts[2], {kS, kB, kG, kD}), options, extras).out;
  const Value y = linear(t, out, parameter("proj", {kC, kG, kQ, kD}), {}, {.out_dims = 1, .contract_dims = 3});
  const Value seed = input("seed", DType::kF64, {});
  const Value loss = lm_head_loss(t, y, parameter("head", {kV, kC}), input("labels", DType::kI32, {kS, kB}),
                                  input("weights", DType::kF32, {kS, kB}), seed, kV - 1);
  t.output("loss", loss);
  t.loss(loss, seed);
  differentiate(program);
  remove_dead_ops(program);
  verify(program);
  return program;
}

class Block {
 public:
  explicit Block(double dropout) : pool_(2), device_(make_cpu_device()), store_(*device_) {
    Plan plan = pack(build(dropout));
    auto arena = std::make_shared<Buffer>(*device_, plan.arena_bytes());
    executor_ = std::make_unique<Executor>(std::move(plan), store_, std::move(arena), Executor::Options{&pool_, {}});
    for (int64_t i = 0; i < kS * kB; ++i) {
      executor_->input("position").as<int32_t>()[i] = static_cast<int32_t>(i / kB);
      executor_->input("labels").as<int32_t>()[i] = static_cast<int32_t>(i * 5 % (kV - 1));
      executor_->input("weights").as<float>()[i] = i == 3 ? 0.0f : 0.5f;
    }
    *executor_->input("seed").as<double>() = 2.0;
    if (dropout > 0) {
      *executor_->input("step").as<int64_t>() = 7;
      for (int64_t b = 0; b < kB; ++b) executor_->input("sample").as<int64_t>()[b] = 11 + b;
    }
    for (const char* name : kNames) {
      const Tensor p = store_.find(name);
      for (int64_t i = 0; i < p.numel(); ++i) {
        p.as<double>()[i] = 0.7 * philox_normal(philox_key(5, hash_name(name)), static_cast<uint64_t>(i));
      }
    }
  }
  double loss() {
    executor_->run(Phase::kForward);
    return *executor_->output("loss").as<double>();
  }
  void backward() { executor_->run(Phase::kBackward); }
  Tensor find(const std::string& name) const { return store_.find(name); }
  const Program& program() const { return executor_->plan().program; }

  static constexpr const char* kNames[] = {"x", "qkv", "bias", "proj", "head"};

 private:
  ThreadPool pool_;
  std::unique_ptr<Device> device_;
  Store store_;
  std::unique_ptr<Executor> executor_;
};

TEST_CASE("the gradient of a traced attention block equals finite differences", "[attention]") {
  for (const double dropout : {0.0, 0.25}) {
    Block block(dropout);
    for (const char* name : Block::kNames) {  // gradients are accumulated: begin with zero
      const Tensor gradient = block.find(gradient_name(name));
      std::fill_n(gradient.as<double>(), gradient.numel(), 0.0);
    }
    block.loss();
    block.backward();
    std::map<std::string, std::vector<double>> analytic;
    for (const char* name : Block::kNames) {
      const Tensor gradient = block.find(gradient_name(name));
      analytic[name].assign(gradient.as<double>(), gradient.as<double>() + gradient.numel());
    }
    for (const char* name : Block::kNames) {
      double worst = 0, top = 0;
      const Tensor p = block.find(name);
      for (int64_t i = 0; i < p.numel(); ++i) {
        double& element = p.as<double>()[i];
        const double kept = element;
        element = kept + 1e-5;
        const double up = block.loss();
        element = kept - 1e-5;
        const double down = block.loss();
        element = kept;
        const double expected = 2.0 * (up - down) / 2e-5;  // the seed is 2
        worst = std::max(worst, std::abs(analytic[name][static_cast<size_t>(i)] - expected));
        top = std::max(top, std::abs(expected));
      }
      INFO(name << " dropout " << dropout);
      REQUIRE(top > 0.01);
      REQUIRE(worst < 1e-8 * top);
    }
  }
}

TEST_CASE("attention reads views and joins its gradients without copies", "[attention]") {
  Block block(0.0);
  const Program& program = block.program();
  int joins = 0;
  for (const Phase phase : {Phase::kForward, Phase::kBackward}) {
    for (const OpId id : program.list(phase)) {
      const Op& op = program.op(id);
      REQUIRE(op.kind->name() != "contiguous");
      if (op.kind->name() != "join") continue;
      ++joins;
      for (const ValueId part : op.operands) {
        REQUIRE(program.value(part).storage.root == program.value(op.results[0]).storage.root);
      }
    }
  }
  REQUIRE(joins == 1);
}

}  // namespace
}  // namespace megatron
