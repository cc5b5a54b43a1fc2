// A model cut in two programs gives the gradients of the whole one, whatever order its micro-batches come in.
#include <cstring>

#include "tests/catch.h"
#include "tests/program/rig.h"

using namespace megatron;
using namespace megatron::tiny;

namespace {

const Dims kShape = {3, 4};

Value first_half(Trace& t) {
  const Value x = t.input("x", DType::kF64, kShape, t.replicated());
  return tanh(t, matmul(t, x, param(t, "w1", {4, 4})));
}

/// Uses what it gets twice, so that its gradient is a sum.
void second_half(Trace& t, Value h) {
  const Value y = matmul(t, h, param(t, "w2", {4, 4}));
  add_loss(t, sum(t, mul(t, tanh(t, y), h)));
}

enum class Part { kWhole, kFirst, kSecond };
Program program_of(Part part) {
  Program program;
  program.name = "part";
  Trace t(program, true);
  if (part == Part::kFirst) {
    t.send("h", first_half(t));
  } else {
    second_half(t, part == Part::kWhole ? first_half(t) : t.receive("h", DType::kF64, kShape, t.replicated()));
  }
  differentiate(program);
  remove_dead_ops(program);
  return program;
}

PackOptions slots(int sets) {
  PackOptions options;
  options.slot_sets = sets;
  options.own_slots = true;
  return options;
}

void copy(const Tensor& from, const Tensor& to) {
  REQUIRE(from.bytes() == to.bytes());
  std::memcpy(to.data, from.data, static_cast<size_t>(from.bytes()));
}

}  // namespace

TEST_CASE("boundaries: two parts make the gradients of the whole") {
  Rig whole(program_of(Part::kWhole), slots(3));
  for (int s = 0; s < 3; ++s) whole.step(s);
  Rig first(program_of(Part::kFirst), slots(3)), second(program_of(Part::kSecond), slots(3));
  CHECK(first.gradients().count("w2") == 0);
  for (int s = 0; s < 3; ++s) {  // all forwards of the first part come before any backward
    first.executor().run(Phase::kForward, s);
    copy(first.executor().output("h", s), second.executor().received("h", s));
  }
  for (int s = 0; s < 3; ++s) second.executor().run(Phase::kForward, s);
  for (int s = 0; s < 3; ++s) {
    second.executor().run(Phase::kBackward, s);
    copy(second.executor().output("gradient/h", s), first.executor().received("gradient/h", s));
  }
  for (int s = 0; s < 3; ++s) first.executor().run(Phase::kBackward, s);
  const auto expected = whole.gradients();
  CHECK(same_bits(first.gradients().at("w1"), expected.at("w1")));
  CHECK(same_bits(second.gradients().at("w2"), expected.at("w2")));
}

TEST_CASE("boundaries: what is refused") {
  CHECK(contains(message_of([] { pack(program_of(Part::kFirst)); }), "lie in slot sets"));
  Rig first(program_of(Part::kFirst), slots(1));
  CHECK(contains(message_of([&] { first.executor().received("h", 0); }), "receives no 'h'"));
  const auto sends_input = [] {
    Program program;
    Trace t(program, true);
    t.send("x", t.input("x", DType::kF64, kShape, t.replicated()));
  };
  CHECK(contains(message_of(sends_input), "its own operations"));
  const auto unused = [] {
    Program program;
    Trace t(program, true);
    t.receive("h", DType::kF64, kShape, t.replicated());
    add_loss(t, sum(t, first_half(t)));
    differentiate(program);
  };
  CHECK(contains(message_of(unused), "nothing depends on"));
}
