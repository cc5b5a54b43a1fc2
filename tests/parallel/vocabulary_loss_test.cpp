// The fused head and loss with the vocabulary spread over ranks equals one rank; what does not fit is refused.
#include "comm/collectives.h"
#include "kernels/lm_head_loss/lm_head_loss.h"
#include "parallel/parallel_context.h"
#include "program/passes.h"
#include "program/trace.h"
#include "tests/catch.h"
#include "tests/parallel/mesh_run.h"

namespace megatron::testing {
namespace {

using tiny::contains;
using tiny::message_of;
using tiny::number;

struct Problem {
  int64_t s = 5, b = 3, c = 4, rows = 13, valid = 13;
  DType dtype = DType::kF64;
};

struct Faults {
  bool no_enter = false, no_gather = false, whole_weight = false, partial_x = false;
};

/// y = x scale, loss of the head on y; with sequence parallelism x is cut over tp and gathered before the head.
Program program_of(const Problem& p, const Mesh& mesh, bool sequence_parallel, const Faults& faults = {}) {
  const ParallelContext parallel(mesh, sequence_parallel);
  Program program;
  program.mesh = mesh;
  Trace t(program, true);
  const DType sums = accumulation_dtype(p.dtype);
  const Value x = t.parameter("x", p.dtype, {p.s, p.b, p.c}, parallel.tokens(), Init::constant(0));
  const Value w = t.parameter("w", p.dtype, {p.rows, p.c},
                              faults.whole_weight ? parallel.replicated() : parallel.tp_sharded(0), Init::constant(0));
  const Value labels = t.input("labels", DType::kI32, {p.s, p.b}, parallel.tokens());
  const Value weights = t.input("weights", DType::kF32, {p.s, p.b}, parallel.tokens());
  const Value seed = t.input("seed", sums, {}, parallel.replicated());
  Value h = parallel.to_stream(t, x);
  if (faults.partial_x) h = t.input("partial", p.dtype, {p.s, p.b, p.c}, {AxisPlacement::P()});
  if (!faults.no_enter && !faults.no_gather && !faults.partial_x) h = parallel.gather_in(t, h);
  const LmHeadLossResult result = lm_head_loss_all(t, h, w, labels, weights, seed, p.valid);
  t.loss(result.loss, seed);
  t.output("loss", result.loss);
  t.output("tokens", result.token_loss);
  differentiate(program);
  remove_dead_ops(program);
  return program;
}

struct Result {
  Numbers loss, tokens, dx, dw;
};

Result run(const Problem& p, const AxisSizes& sizes, bool sequence_parallel) {
  MeshRun mesh(sizes);
  mesh.add("loss", [&](const Mesh& m) { return program_of(p, m, sequence_parallel); });
  mesh.fill("loss", "x", [](int64_t i) { return 2 * number("x", i); });
  mesh.fill("loss", "w", [&](int64_t i) { return i / p.c < p.valid ? 3 * number("w", i) : 0.0; });
  mesh.fill("loss", "labels", [&](int64_t i) {
    return i % 5 == 2 ? (i % 2 == 0 ? -100 : 1e6) : static_cast<double>((i * 31 + 7) % p.valid);
  });
  mesh.fill("loss", "weights", [](int64_t i) { return i % 5 == 2 ? 0.0 : 0.25 * static_cast<double>(1 + i % 4); });
  mesh.fill("loss", "seed", [](int64_t) { return 1.5; });
  for (const char* state : {"gradient/x", "gradient/w"}) mesh.fill("loss", state, [](int64_t) { return 0.0; });
  mesh.run("loss");
  return {mesh.global("loss", "loss"), mesh.global("loss", "tokens"), mesh.global("loss", "gradient/x"),
          mesh.global("loss", "gradient/w")};
}

void check_equal(const Result& a, const Result& b, double tolerance) {
  CHECK(relative_difference(a.loss, b.loss) < tolerance);
  CHECK(relative_difference(a.tokens, b.tokens) < tolerance);
  CHECK(relative_difference(a.dx, b.dx) < tolerance);
  CHECK(relative_difference(a.dw, b.dw) < tolerance);
}

}  // namespace

TEST_CASE("the head's loss and gradients on a spread vocabulary equal one rank") {
  // Vocabularies that divide and do not, fewer ids than ranks, ranks that hold padding alone, several chunks of tokens.
  for (const Problem& p : {Problem{}, Problem{5, 3, 4, 12, 12}, Problem{5, 3, 4, 16, 9}, Problem{5, 3, 4, 32, 9},
                           Problem{4, 2, 3, 3, 2}, Problem{4, 2, 3, 1, 1}, Problem{700, 3, 3, 11, 10}}) {
    const Result one = run(p, {}, false);
    for (int tp : {2, 3, 4}) {
      for (bool sequence_parallel : {false, true}) {
        INFO("rows " << p.rows << " valid " << p.valid << " tp " << tp << " sp " << sequence_parallel);
        check_equal(run(p, {{"tp", tp}}, sequence_parallel), one, 1e-12);
      }
    }
    INFO("rows " << p.rows << " valid " << p.valid << " tp2 cp2 dp3");
    check_equal(run(p, {{"tp", 2}, {"cp", 2}, {"dp", 3}}, true), one, 1e-12);
  }
  Problem single{5, 3, 4, 16, 9};
  single.dtype = DType::kF32;
  check_equal(run(single, {{"tp", 4}}, false), run(single, {}, false), 1e-5);
}

TEST_CASE("padding rows of the vocabulary change nothing and get no gradient") {
  const Result exact = run({5, 3, 4, 9, 9}, {}, false), padded = run({5, 3, 4, 32, 9}, {{"tp", 4}}, true);
  CHECK(relative_difference(padded.loss, exact.loss) < 1e-12);
  CHECK(relative_difference(padded.dx, exact.dx) < 1e-12);
  for (size_t i = 0; i < padded.dw.size(); ++i) {
    if (i < exact.dw.size()) {
      CHECK(std::abs(padded.dw[i] - exact.dw[i]) < 1e-12);
    } else {
      CHECK(padded.dw[i] == 0.0);
    }
  }
}

TEST_CASE("two runs of the spread head give the same bits") {
  const Problem p{700, 3, 3, 11, 10};
  const Result a = run(p, {{"tp", 3}}, true), b = run(p, {{"tp", 3}}, true);
  CHECK(a.loss == b.loss);
  CHECK(a.dx == b.dx);
  CHECK(a.dw == b.dw);
}

TEST_CASE("the spread head refuses operands that are not whole") {
  const Mesh mesh = meshes_of({{"tp", 2}})[0];
  CHECK(message_of([&] { program_of({}, mesh, true); }).empty());
  const std::string sharded = message_of([&] { program_of({}, mesh, true, {.no_gather = true}); });
  CHECK(contains(sharded, "operand 0 is sharded over tp"));
  CHECK(contains(sharded, "remedy: all_gather it first"));
  const std::string partial = message_of([&] { program_of({}, mesh, false, {.partial_x = true}); });
  CHECK(contains(partial, "operand 0 is partial over tp"));
  CHECK(contains(partial, "remedy: all_reduce it first"));
  // Without the sum over tp the gradient of x is partial: the type says so, nothing is wrong yet.
  Program program = program_of({}, mesh, false, {.no_enter = true});
  CHECK(to_string(program.value(program.by_name.at("gradient/x")).placement, mesh) == "tp:P");
  program = program_of({}, mesh, false, {});
  CHECK(to_string(program.value(program.by_name.at("gradient/x")).placement, mesh) == "R");
  CHECK(to_string(program.value(program.by_name.at("gradient/w")).placement, mesh) == "tp:S(0)");
  // A weight that every rank has whole needs no communication.
  program = program_of({}, mesh, false, {.whole_weight = true});
  CHECK(to_string(program.value(program.by_name.at("gradient/w")).placement, mesh) == "R");
}

}  // namespace megatron::testing
