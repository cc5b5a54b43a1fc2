#include "program/executor.h"

#include "program/elementwise.h"
#include "program/views.h"
#include "tests/catch.h"
#include "tests/program/rig.h"

using namespace megatron;
using namespace megatron::tiny;

namespace {

/// x [2, 3 samples, 4] through two scopes; `log` makes -inf from a zero element.
Program program_with_log() {
  Program program;
  program.name = "train";
  Trace t(program, true);
  Value h = t.input("x", DType::kF64, {2, 3, 4}, {}, 1);
  {
    Trace::Scope scope(t, "first");
    h = scale(t, h, 2.0);
  }
  {
    Trace::Scope scope(t, "second");
    h = t.emit1(std::make_shared<Log>(), {h});
  }
  t.output("y", tiny::tanh(t, h));
  return program;
}

PackOptions no_reuse() {
  PackOptions o;
  o.reuse = false;
  return o;
}

}  // namespace

TEST_CASE("the search for non-finite values names phase, operation, scope, value, element and sample") {
  Rig rig(program_with_log(), no_reuse());
  CHECK(find_non_finite(rig.executor()) == nullptr);
  const Tensor x = rig.executor().input("x");
  at(x, {1, 2, 3}) = 0;
  const auto found = find_non_finite(rig.executor());
  REQUIRE(found != nullptr);
  CHECK(found->phase == "F");
  CHECK(found->op == "log");
  CHECK(found->scope == "second");
  CHECK(found->index == (1 * 3 + 2) * 4 + 3);
  CHECK(found->sample_index == 2);
  CHECK(found->bad == -std::numeric_limits<double>::infinity());
  at(x, {0, 1, 1}) = std::nan("");  // in the host's data: the first operation that reads it is named
  const auto earlier = find_non_finite(rig.executor());
  REQUIRE(earlier != nullptr);
  CHECK(earlier->op == "scale");
  CHECK(earlier->scope == "first");
  CHECK(earlier->sample_index == 1);
  CHECK(std::isnan(earlier->bad));
}

TEST_CASE("the search for non-finite values looks at gradients and strided results") {
  Program program;
  Trace t(program, true);
  const Value x = t.input("x", DType::kF64, {4, 6}, {});
  Value h;
  {
    Trace::Scope scope(t, "mlp");
    h = matmul(t, x, param(t, "w", {6, 6}));
  }
  const auto parts = split(t, h, 1, {2, 4});
  {
    Trace::Scope scope(t, "loss");
    add_loss(t, sum(t, tiny::tanh(t, parts[1])));
  }
  differentiate(program);
  Rig rig(program);
  CHECK(find_non_finite(rig.executor()) == nullptr);
  *rig.executor().input("seed0").as<double>() = std::numeric_limits<double>::infinity();
  const auto found = find_non_finite(rig.executor());
  REQUIRE(found != nullptr);
  CHECK(found->phase == "B");
  CHECK(found->scope == "loss");
  CHECK(found->op == "spread");
  CHECK(found->index == 0);
}

TEST_CASE("programs share parameters and state by name") {
  const auto device = make_cpu_device();
  Store store(*device);
  ThreadPool pool(1);
  const auto make = [&](double factor, const Dims& shape) {
    Program program;
    program.name = "p";
    Trace t(program);
    t.output("y", scale(t, param(t, "w", shape), factor));
    Plan plan = pack(program);
    auto arena = std::make_shared<Buffer>(*device, plan.arena_bytes());
    return std::make_unique<Executor>(std::move(plan), store, arena, Executor::Options{&pool, {}});
  };
  const auto a = make(2, {4}), b = make(3, {4});
  CHECK(store.tensors().size() == 1);
  store.find("w").as<double>()[1] = 5;
  a->run(Phase::kForward);
  b->run(Phase::kForward);
  CHECK(a->output("y").as<double>()[1] == 10);
  CHECK(b->output("y").as<double>()[1] == 15);
  CHECK(b->output("y").as<double>()[0] == 0);  // persistent memory starts as zeros
  CHECK(contains(message_of([&] { make(2, {5}); }), "two programs declare 'w'"));
  CHECK(!store.find("v"));
}

TEST_CASE("what the executor refuses names the program and the name") {
  Rig rig(program_with_log());
  CHECK(rig.executor().has_input("x"));
  CHECK(!rig.executor().has_input("y"));
  CHECK(contains(message_of([&] { rig.executor().input("tokens"); }), "program 'train' has no input 'tokens'"));
  CHECK(contains(message_of([&] { rig.executor().output("z"); }), "program 'train' has no output 'z'"));
  const auto device = make_cpu_device();
  Store store(*device);
  Plan plan = pack(program_with_log());
  auto arena = std::make_shared<Buffer>(*device, plan.arena_bytes() - 1);
  CHECK(contains(message_of([&] { Executor e(plan, store, arena, {}); }), "arena is too small for program 'train'"));
}

TEST_CASE("nothing is allocated while a program runs") {
  Rig rig(program_with_log());
  const int64_t before = rig.store().device().allocated_bytes();
  rig.step();
  rig.step();
  CHECK(rig.store().device().allocated_bytes() == before);
}

TEST_CASE("16-bit values are added and accumulated in fp32, strided ones too") {
  const auto device = make_cpu_device();
  Store store(*device);
  ThreadPool pool(1);
  Program program;
  Trace t(program);
  const Value x = t.input("x", DType::kBF16, {3, 4}, {});
  const auto parts = split(t, x, 1, {1, 3});
  const Value total = t.state("total", DType::kF32, {3, 3}, {});
  accumulate(t, parts[1], total);
  accumulate(t, parts[1], total);
  t.output("copy", contiguous(t, parts[1]));
  t.output("twice", add(t, parts[1], parts[1]));
  Plan plan = pack(program);
  auto arena = std::make_shared<Buffer>(*device, plan.arena_bytes());
  Executor e(std::move(plan), store, arena, {&pool, {}});
  BFloat16* data = e.input("x").as<BFloat16>();
  for (int i = 0; i < 12; ++i) data[i] = BFloat16(1.0f + static_cast<float>(i) / 128);  // neighbours in bf16
  e.run(Phase::kForward);
  for (int r = 0; r < 3; ++r) {
    for (int c = 0; c < 3; ++c) {
      const float value = 1.0f + static_cast<float>(r * 4 + c + 1) / 128;
      CHECK(e.output("copy").as<BFloat16>()[r * 3 + c] == value);
      CHECK(e.output("twice").as<BFloat16>()[r * 3 + c] == 2 * value);
      CHECK(store.find("total").as<float>()[r * 3 + c] == 2 * value);
    }
  }
  e.run(Phase::kForward);
  CHECK(store.find("total").as<float>()[8] == 4 * (1.0f + 11.0f / 128));  // would not fit bf16
}
