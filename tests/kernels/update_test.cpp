// The operations of the update step, against numbers worked out by hand or by the formula in plain code.
#include <cmath>
#include <limits>
#include <vector>

#include "base/error.h"
#include "base/thread_pool.h"
#include "kernels/adamw/adamw.h"
#include "kernels/cast/cast.h"
#include "kernels/gradient_norm/gradient_norm.h"
#include "kernels/sgd/sgd.h"
#include "program/executor.h"
#include "program/passes.h"
#include "tests/catch.h"

namespace megatron {
namespace {

/// Runs the forward of a program whose inputs are fp64 scalars; states start from `states`.
class Step {
 public:
  explicit Step(Program program) : pool_(2), device_(make_cpu_device()), store_(*device_) {
    Plan plan = pack(std::move(program));
    auto arena = std::make_shared<Buffer>(*device_, plan.arena_bytes());
    executor_ = std::make_unique<Executor>(std::move(plan), store_, arena, Executor::Options{&pool_, {}});
    for (const char* name : {"lr", "wd", "coefficient", "skip", "t"}) {
      if (executor_->has_input(name)) set(name, 0);
    }
  }
  template <typename T = double>
  T* state(const std::string& name) {
    return store_.find(name).as<T>();
  }
  void set(const std::string& name, double value) { *executor_->input(name).as<double>() = value; }
  double output(const std::string& name) { return *executor_->output(name).as<double>(); }
  void run() { executor_->run(Phase::kForward); }

 private:
  ThreadPool pool_;
  std::unique_ptr<Device> device_;
  Store store_;
  std::unique_ptr<Executor> executor_;
};

struct Scalars {
  Value lr, wd, coefficient, skip, t;
};
Scalars scalars(Trace& t) {
  const auto scalar = [&](const char* name) { return t.input(name, DType::kF64, {}, t.replicated()); };
  return {scalar("lr"), scalar("wd"), scalar("coefficient"), scalar("skip"), scalar("t")};
}

Program adamw_program(DType param) {
  Program program;
  Trace t(program);
  const Scalars s = scalars(t);
  const DType state = accumulation_dtype(param);
  AdamWOperands o;
  o.param = t.state("p", param, {1}, t.replicated());
  if (size_of(param) < 4) o.master = t.state("master", state, {1}, t.replicated());
  o.m = t.state("m", state, {1}, t.replicated());
  o.v = t.state("v", state, {1}, t.replicated());
  o.grad = t.state("g", state, {1}, t.replicated());
  o.lr = s.lr;
  o.weight_decay = s.wd;
  o.coefficient = s.coefficient;
  o.skip = s.skip;
  o.t = s.t;
  adamw(t, o, {0.9, 0.99, 1e-8, 0.5});
  return program;
}

TEST_CASE("adamw follows the formula over several steps") {
  Step step(adamw_program(DType::kF64));
  double p = 1.5, m = 0, v = 0;
  *step.state("p") = p;
  step.set("lr", 0.1);
  step.set("wd", 0.2);
  step.set("coefficient", 0.25);
  for (int t = 1; t <= 5; ++t) {
    const double grad = 4.0 * t - 9, g = grad * 0.25;
    *step.state("g") = grad;
    step.set("t", t);
    step.run();
    m = 0.9 * m + 0.1 * g;
    v = 0.99 * v + 0.01 * g * g;
    p -= 0.1 * ((m / (1 - std::pow(0.9, t))) / (std::sqrt(v / (1 - std::pow(0.99, t))) + 1e-8) + 0.2 * 0.5 * p);
    CHECK(*step.state("p") == Approx(p).epsilon(1e-14));
    CHECK(*step.state("m") == Approx(m).epsilon(1e-14));
    CHECK(*step.state("v") == Approx(v).epsilon(1e-14));
  }
}

TEST_CASE("a skipped step changes no bit, even with a gradient that is not a number") {
  Step step(adamw_program(DType::kBF16));
  *step.state<BFloat16>("p") = BFloat16(1.5f);
  *step.state<float>("master") = 1.501f;
  *step.state<float>("m") = 0.25f;
  *step.state<float>("v") = 0.5f;
  *step.state<float>("g") = std::numeric_limits<float>::quiet_NaN();
  step.set("lr", 0.1);
  step.set("wd", 0.1);
  step.set("coefficient", 0);
  step.set("skip", 1);
  step.set("t", 3);
  step.run();
  CHECK(static_cast<float>(*step.state<BFloat16>("p")) == 1.5f);
  CHECK(*step.state<float>("master") == 1.501f);
  CHECK(*step.state<float>("m") == 0.25f);
  CHECK(*step.state<float>("v") == 0.5f);
}

TEST_CASE("the master copy keeps what 16 bits lose") {
  Step step(adamw_program(DType::kBF16));
  *step.state<BFloat16>("p") = BFloat16(1.0f);
  *step.state<float>("master") = 1.0f;
  *step.state<float>("g") = 1.0f;
  step.set("lr", 1e-4);
  step.set("coefficient", 1);
  for (int t = 1; t <= 100; ++t) {
    step.set("t", t);
    step.run();
  }
  CHECK(*step.state<float>("master") == Approx(0.99f).epsilon(1e-4));
  CHECK(static_cast<float>(*step.state<BFloat16>("p")) == static_cast<float>(BFloat16(*step.state<float>("master"))));
}

TEST_CASE("sgd: weight decay is part of the gradient, the first buffer is the gradient") {
  Program program;
  Trace t(program);
  const Scalars s = scalars(t);
  const auto state = [&](const char* name) { return t.state(name, DType::kF64, {1}, t.replicated()); };
  sgd(t, {state("p"), {}, state("momentum"), state("g"), s.lr, s.wd, s.coefficient, s.skip, s.t}, {0.9, 1.0});
  Step step(std::move(program));
  *step.state("p") = 2;
  *step.state("momentum") = 1e300;  // does not count at the first step
  *step.state("g") = 3;
  step.set("lr", 0.1);
  step.set("wd", 0.5);
  step.set("coefficient", 2);
  step.set("t", 1);
  step.run();  // g = 6 + 1 = 7
  CHECK(*step.state("momentum") == Approx(7));
  CHECK(*step.state("p") == Approx(1.3));
  step.set("t", 2);
  step.run();  // g = 6 + 0.65, buffer = 6.3 + 6.65
  CHECK(*step.state("momentum") == Approx(12.95));
  CHECK(*step.state("p") == Approx(1.3 - 1.295));
}

TEST_CASE("norm, clipping and skipping") {
  Program program;
  Trace t(program);
  const Value a = t.state("a", DType::kF32, {2}, t.replicated()), b = t.state("b", DType::kF64, {1, 1}, t.replicated());
  const Value inverse = t.input("inverse", DType::kF64, {}, t.replicated());
  const ClipResult clip = clip_gradients(t, {sum_of_squares(t, {a}), sum_of_squares(t, {b})}, inverse, 1.0);
  t.output("norm", clip.norm);
  t.output("coefficient", clip.coefficient);
  t.output("skip", clip.skip);
  Step step(std::move(program));
  step.state<float>("a")[0] = 30;
  step.state<float>("a")[1] = 40;
  *step.state("b") = 120;
  step.set("inverse", 0.5);
  step.run();
  CHECK(step.output("norm") == Approx(65));
  CHECK(step.output("coefficient") == Approx(0.5 / (65 + 1e-6)).epsilon(1e-14));
  CHECK(step.output("skip") == 0);
  step.set("inverse", 1e-3);
  step.run();
  CHECK(step.output("coefficient") == Approx(1e-3));  // small gradients are not scaled up
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    step.state<float>("a")[1] = bad;
    step.run();
    CHECK(step.output("coefficient") == 0);
    CHECK(step.output("skip") == 1);
  }
}

TEST_CASE("the sum of squares is partial where gradients are sharded, and refuses a mixture") {
  Program program;
  program.mesh.axes = {{"tp", 2, 0}};
  Trace t(program);
  const Value sharded = t.state("s", DType::kF32, {4, 4}, {AxisPlacement::S(0)});
  const Value other = t.state("o", DType::kF32, {4, 4}, {AxisPlacement::S(1)});
  const Value whole = t.state("w", DType::kF32, {4}, t.replicated());
  const Value partial = t.state("p", DType::kF32, {4}, {AxisPlacement::P()});
  CHECK(t.info(sum_of_squares(t, {sharded, other})).placement[0] == AxisPlacement::P());
  CHECK(t.info(sum_of_squares(t, {whole})).placement[0] == AxisPlacement::R());
  CHECK_THROWS_AS(sum_of_squares(t, {whole, sharded}), InternalError);
  CHECK_THROWS_AS(sum_of_squares(t, {partial}), InternalError);
}

TEST_CASE("adamw refuses a missing or superfluous master copy") {
  CHECK_NOTHROW(adamw_program(DType::kF32));
  Program program;
  Trace t(program);
  const Scalars s = scalars(t);
  const auto state = [&](const char* name, DType dtype) { return t.state(name, dtype, {1}, t.replicated()); };
  const Value m = state("m", DType::kF32), v = state("v", DType::kF32), g = state("g", DType::kF32);
  CHECK_THROWS_AS(adamw(t, {state("p", DType::kBF16), {}, m, v, g, s.lr, s.wd, s.coefficient, s.skip, s.t}, {}),
                  InternalError);
  CHECK_THROWS_AS(adamw(t, {state("q", DType::kF32), m, m, v, g, s.lr, s.wd, s.coefficient, s.skip, s.t}, {}),
                  InternalError);
}

TEST_CASE("zero clears state") {
  Program program;
  Trace t(program);
  zero(t, t.state("a", DType::kBF16, {5}, t.replicated()));
  Step step(std::move(program));
  for (int i = 0; i < 5; ++i) step.state<BFloat16>("a")[i] = BFloat16(3.0f);
  step.run();
  for (int i = 0; i < 5; ++i) CHECK(step.state<BFloat16>("a")[i].bits == 0);
}

}  // namespace
}  // namespace megatron
