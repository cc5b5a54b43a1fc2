// The comparison of two devices, with the CPU as both.
#include "train/compare_devices.h"
#include "program/passes.h"
#include "tests/catch.h"
#include "tests/train/trainer_helpers.h"

namespace megatron::test {

TEST_CASE("compare: the CPU equals itself, in every value of forward and backward") {
  for (const char* dtype : {"fp32", "bf16"}) {
    EngineRun run(tiny({{"precision.params_dtype", dtype}}));
    const DeviceComparison outcome = compare_with_cpu(run.engine(), run.config(), run.batches(1)[0]);
    CHECK_FALSE(outcome.first);
    CHECK(outcome.operations > 40);
    CHECK(outcome.values > 50);
    CHECK(outcome.nearest.error == 0);
  }
}

namespace {

/// The training program of `run` on its weights, without reuse.
struct Side {
  Side(EngineRun& run, const Program& program) {
    PackOptions options;
    options.reuse = false;
    Plan plan = pack(program, options);
    auto arena = std::make_shared<Buffer>(run.engine().device(), plan.arena_bytes());
    Executor::Options how;
    how.pool = &run.engine().pool();
    executor = std::make_unique<Executor>(std::move(plan), run.engine().store(), arena, how);
    TrainEngine::write_batch(*executor, run.batches(1)[0], 1.0, 1);
  }
  std::unique_ptr<Executor> executor;
};

}  // namespace

TEST_CASE("compare: an operation that computes something else is named, and none before or after it") {
  EngineRun run(tiny({{"model.hidden_dropout", "0"}, {"model.attention_dropout", "0"}})), other(tiny());
  const Program right = make_loss_program(run.config(), run.engine().programs().spec, ParallelContext(), true);
  Program wrong = right;
  // The second layer's first norm becomes the one of another epsilon.
  const Program changed = make_loss_program(
      load_settings(
          tiny({{"model.hidden_dropout", "0"}, {"model.attention_dropout", "0"}, {"model.norm_epsilon", "0.5"}}))
          .config,
      make_model_spec(
          load_settings(
              tiny({{"model.norm_epsilon", "0.5"}, {"model.hidden_dropout", "0"}, {"model.attention_dropout", "0"}}))
              .config,
          61),
      ParallelContext(), true);
  OpId planted = kNone;
  for (OpId id : wrong.list(Phase::kForward)) {
    Op& op = wrong.op(id);
    if (op.kind->name() != "rmsnorm" || op.scope.find("layers.1") == std::string::npos || planted != kNone) continue;
    op.kind = changed.op(id).kind;
    planted = id;
  }
  REQUIRE(planted != kNone);
  Side tested(run, wrong), reference(other, right);
  const DeviceComparison outcome = compare_executors(*tested.executor, *reference.executor);
  REQUIRE(outcome.first);
  CHECK(outcome.first->op == "rmsnorm");
  CHECK(outcome.first->scope == wrong.op(planted).scope);
  CHECK(outcome.first->phase == "F");
  CHECK(outcome.first->error > outcome.first->tolerance);
  CHECK(outcome.first->text().find("instead of") != std::string::npos);
}

}  // namespace megatron::test
