#include "program/program.h"
#include "tests/catch.h"
#include "tests/program/rig.h"

using namespace megatron;
using namespace megatron::tiny;

namespace {

constexpr auto R = AxisPlacement::R;
constexpr auto S = AxisPlacement::S;
constexpr auto P = AxisPlacement::P;

Mesh tp2() {
  return {{{"tp", 2, 0}}};
}
Mesh tp2_dp2() {
  return {{{"tp", 2, 0}, {"dp", 2, 0}}};
}

ValueInfo typed(const Dims& shape, const Placement& placement, int sample_dim = -1) {
  ValueInfo v;
  v.dtype = DType::kF64;
  v.shape = shape;
  v.placement = placement;
  v.sample_dim = sample_dim;
  return v;
}

ValueInfo infer(const std::string& text, std::vector<ValueInfo> operands, const Mesh& mesh,
                std::vector<std::vector<int>> linear = {}, const std::string& whole = "") {
  Signature s = parse_signature(text, DType::kF64);
  s.linear = std::move(linear);
  s.whole = whole;
  Operands types;
  for (const ValueInfo& v : operands) types.push_back(v.shape == Dims{-1} ? nullptr : &v);
  return infer_by_signature(s, types, mesh).front();
}

ValueInfo absent() {
  return typed({-1}, {});
}

std::string reason(const std::string& text, std::vector<ValueInfo> operands, const Mesh& mesh,
                   std::vector<std::vector<int>> linear = {}, const std::string& whole = "") {
  try {
    infer(text, std::move(operands), mesh, std::move(linear), whole);
  } catch (const PlacementError& error) {
    return error.reason + " | " + error.remedy;
  }
  return "";
}

const std::vector<std::vector<int>> kProduct = {{0}, {1}};
const Dims x{8, 4, 6}, w{10, 6};

Program empty(Mesh mesh) {
  Program program;
  program.mesh = std::move(mesh);
  return program;
}

}  // namespace

TEST_CASE("a letter that the result has stays sharded: column-parallel linear") {
  const ValueInfo y = infer("sbk,nk->sbn", {typed(x, {R()}), typed(w, {S(0)})}, tp2(), kProduct);
  CHECK(y.shape == Dims{8, 4, 10});
  CHECK(y.placement == Placement{S(2)});
  CHECK(y.dtype == DType::kF64);
  // its data gradient contracts n: partial; its weight gradient keeps n
  CHECK(infer("sbn,nk->sbk", {typed({8, 4, 10}, {S(2)}), typed(w, {S(0)})}, tp2(), kProduct).placement ==
        Placement{P()});
  CHECK(infer("sbn,sbk->nk", {typed({8, 4, 10}, {S(2)}), typed(x, {R()})}, tp2(), kProduct).placement ==
        Placement{S(0)});
}

TEST_CASE("a letter that the result lacks makes it partial: row-parallel linear") {
  CHECK(infer("sbk,nk->sbn", {typed(x, {S(2)}), typed(w, {S(1)})}, tp2(), kProduct).placement == Placement{P()});
  CHECK(infer("sbn,nk->sbk", {typed({8, 4, 10}, {R()}), typed(w, {S(1)})}, tp2(), kProduct).placement ==
        Placement{S(2)});
  CHECK(infer("sbn,sbk->nk", {typed({8, 4, 10}, {R()}), typed(x, {S(2)})}, tp2(), kProduct).placement ==
        Placement{S(1)});
}

TEST_CASE("weight gradients are partial over the axes of the tokens") {
  const Placement tokens{R(), S(1)};
  const ValueInfo dw = infer("sbn,sbk->nk", {typed({8, 4, 10}, {S(2), S(1)}), typed(x, tokens)}, tp2_dp2(), kProduct);
  CHECK(dw.placement == Placement{S(0), P()});
  // sequence parallelism: tokens sharded over tp too, weight replicated
  const ValueInfo norm = infer("sbk,sbk->k", {typed(x, {S(0), S(1)}), typed(x, {S(0), S(1)})}, tp2_dp2(), kProduct);
  CHECK(norm.placement == Placement{P(), P()});
}

TEST_CASE("one dimension may be sharded over two axes, one rule per axis") {
  const ValueInfo y = infer("sbk,nk->sbn", {typed(x, {S(0), S(0)}), typed(w, {R(), R()})}, tp2_dp2(), kProduct);
  CHECK(y.placement == Placement{S(0), S(0)});
  CHECK(infer("sbk,nk->sbn", {typed(x, {S(2), S(1)}), typed(w, {S(1), R()})}, tp2_dp2(), kProduct).placement ==
        Placement{P(), S(1)});
}

TEST_CASE("shards that do not fit are refused with the operands, letters and a remedy") {
  const std::string two_letters = reason("sbk,nk->sbn", {typed(x, {S(0)}), typed(w, {S(0)})}, tp2(), kProduct);
  CHECK(contains(two_letters, "operands 0 and 1 are sharded on 's' and 'n' over axis tp"));
  CHECK(contains(two_letters, "gather one"));
  const std::string half = reason("sbk,nk->sbn", {typed(x, {S(2)}), typed(w, {R()})}, tp2(), kProduct);
  CHECK(contains(half, "operand 1 is replicated over tp but operand 0 is sharded on their common dimension 'k'"));
  CHECK(contains(half, "slice"));
  const std::string other_axis =
      reason("ab,ab->ab", {typed({4, 4}, {S(0), R()}), typed({4, 4}, {R(), S(0)})}, tp2_dp2(), {});
  CHECK(contains(other_axis, "operand 1 is replicated over tp"));
  const std::string mixed = reason("ab,b->ab", {typed({4, 4}, {S(0)}), typed({4}, {P()})}, tp2(), {{0}, {1}, {0, 1}});
  CHECK(contains(mixed, "operand 1 is partial over tp while operand 0 is sharded"));
  CHECK(contains(mixed, "all_reduce"));
}

TEST_CASE("letters marked whole may not be sharded") {
  const std::string text = reason("ab->ab", {typed({4, 4}, {S(1)})}, tp2(), {}, "b");
  CHECK(contains(text, "sharded on 'b' over axis tp, which the operation needs whole"));
  CHECK(contains(text, "all_gather"));
  CHECK(infer("ab->ab", {typed({4, 4}, {S(0)})}, tp2(), {}, "b").placement == Placement{S(0)});
}

TEST_CASE("partial operands must be exactly one linear group") {
  const ValueInfo part = typed({4, 4}, {P()}), full = typed({4, 4}, {R()});
  CHECK(infer("ab,ab->ab", {part, part}, tp2(), {{0, 1}}).placement == Placement{P()});
  CHECK(contains(reason("ab,ab->ab", {part, full}, tp2(), {{0, 1}}), "operand 0 is partial over tp"));
  CHECK(contains(reason("ab,ab->ab", {full, part}, tp2(), {{0, 1}}), "operand 1 is partial over tp"));
  CHECK(infer("ab,ab->ab", {part, full}, tp2(), {{0}, {1}}).placement == Placement{P()});
  CHECK(infer("ab,ab->ab", {full, part}, tp2(), {{0}, {1}}).placement == Placement{P()});
  CHECK(contains(reason("ab,ab->ab", {part, part}, tp2(), {{0}, {1}}), "not linear"));
  CHECK(contains(reason("ab->ab", {part}, tp2(), {}), "not linear"));
  CHECK(infer("ab,ab->ab", {full, full}, tp2(), {}).placement == Placement{R()});
  // one axis partial, the other sharded
  CHECK(infer("ab->ab", {typed({4, 4}, {P(), S(0)})}, tp2_dp2(), {{0}}).placement == Placement{P(), S(0)});
}

TEST_CASE("absent operands, scalars and bound sizes") {
  CHECK(infer("ab,b->ab", {typed({4, 3}, {S(0)}), absent()}, tp2()).placement == Placement{S(0)});
  const ValueInfo total = infer("ab->", {typed({4, 3}, {S(0)})}, tp2());
  CHECK(total.shape.rank() == 0);
  CHECK(total.placement == Placement{P()});
  Signature s = parse_signature("a->ac", DType::kF32);
  s.sizes = {{'c', 7}};
  const ValueInfo v = typed({5}, {R()});
  CHECK(infer_by_signature(s, {&v}, tp2()).front().shape == Dims{5, 7});
  CHECK(contains(reason("ab,bc->ac", {typed({4, 3}, {R()}), typed({5, 2}, {R()})}, tp2()),
                 "dimension 'b' is 3 in operand 0 but 5"));
  CHECK(contains(reason("ab->a", {typed({4}, {R()})}, tp2()), "operand 0 has rank 1"));
  CHECK(contains(reason("ab->a", {}, tp2()), "takes 1 operands, got 0"));
}

TEST_CASE("the dimension that counts samples follows its letter") {
  CHECK(infer("sbk,nk->sbn", {typed(x, {R()}, 1), typed(w, {R()})}, tp2()).sample_dim == 1);
  CHECK(infer("sbk->bk", {typed(x, {R()}, 1)}, tp2()).sample_dim == 0);
  CHECK(infer("sbk->sk", {typed(x, {R()}, 1)}, tp2()).sample_dim == -1);
}

TEST_CASE("a refused emit names module, operation, operands, placement, origin of the partial value and remedy") {
  Program program = empty(tp2());
  Trace t(program);
  const Value h = t.input("h", DType::kF64, {8, 4, 6}, {S(2)});
  const Value w2 = param(t, "fc2.weight", {6, 6}, {S(1)});
  Value y;
  {
    Trace::Scope layer(t, "layers.3");
    Trace::Scope mlp(t, "mlp");
    y = matmul(t, h, w2);
  }
  y = scale(t, y, 2.0);
  Trace::Scope next(t, "final");
  const std::string text = message_of([&] { tiny::tanh(t, y); });
  CHECK(contains(text, "module 'final': tanh refuses its operands"));
  CHECK(contains(text, "operand 0 is partial over tp"));
  CHECK(contains(text, "fp64[8, 4, 6] tp:P"));
  CHECK(contains(text, "made partial by matmul in 'layers.3.mlp'"));
  CHECK(contains(text, "remedy: all_reduce"));
  CHECK(contains(message_of([&] { matmul(t, y, w2); }), "fc2.weight fp64[6, 6] tp:S(1)"));
}

TEST_CASE("one name is one value, of one type") {
  Program program = empty(tp2());
  Trace t(program);
  const Value a = param(t, "embedding", {8, 4}, {S(0)});
  CHECK(param(t, "embedding", {8, 4}, {S(0)}) == a);
  CHECK(program.parameters.size() == 1);
  CHECK(contains(message_of([&] { param(t, "embedding", {8, 4}, {R()}); }), "'embedding' is declared twice"));
  CHECK(contains(message_of([&] { t.state("embedding", DType::kF64, {8, 4}, {S(0)}); }), "declared twice"));
}

TEST_CASE("verify finds a program that somebody has changed") {
  Program program = empty(tp2());
  Trace t(program);
  const Value a = tiny::tanh(t, t.input("x", DType::kF64, {8, 4}, {R()}));
  const Value b = scale(t, a, 2.0);
  verify(program);
  Program wrong_type = program;
  wrong_type.value(b.id).placement = {S(0)};
  CHECK(contains(message_of([&] { verify(wrong_type); }), "is recorded as"));
  Program wrong_order = program;
  std::swap(wrong_order.lists[0][0], wrong_order.lists[0][1]);
  CHECK(contains(message_of([&] { verify(wrong_order); }), "before it is made"));
  Program wrong_sum = program;
  wrong_sum.op(0).accumulate[0] = b.id;
  CHECK(contains(message_of([&] { verify(wrong_sum); }), "adds to"));
}
