// What the plan says is what the run allocates.
#include <string>

#include "base/file_io.h"
#include "tests/catch.h"
#include "tests/train/trainer_helpers.h"
#include "train/plan_report.h"
#include "train/trainer.h"

namespace megatron::test {
namespace {

void check_plan(const Settings& changes) {
  EngineRun run(tiny(changes));
  TrainEngine& engine = run.engine();
  const MemoryReport report = memory_report(engine.programs());
  CHECK(report.parameters > 0);
  CHECK(report.arena > 0);
  CHECK(report.activations_saved > 0);
  CHECK(report.activations_saved <= report.arena);
  CHECK(engine.device().allocated_bytes() == report.allocated());
  run.steps(2);
  engine.begin_evaluation();
  for (const Batch& batch : run.batches(9)) engine.evaluate({batch});
  run.step(3);
  CHECK(engine.device().allocated_bytes() == report.allocated());
  CHECK(engine.device().peak_allocated_bytes() == report.allocated());

  int64_t counted = 0;  // the same from what lies in the store
  for (const auto& [name, tensor] : engine.store().tensors()) {
    counted += (tensor.bytes() + Device::kAlignment - 1) / Device::kAlignment * Device::kAlignment;
  }
  CHECK(report.allocated() - report.arena == counted);
  const std::string text = describe_plan(run.config(), engine.programs(), {});
  CHECK(text.find(std::to_string(report.allocated()) + " bytes") != std::string::npos);
}

}  // namespace

TEST_CASE("plan equals allocation: fp32, bf16, fp16 and fp64") {
  for (const char* dtype : {"fp32", "bf16", "fp16", "fp64"}) {
    CAPTURE(dtype);
    check_plan({{"precision.params_dtype", dtype}});
  }
}

TEST_CASE("plan equals allocation: sgd with and without momentum, tied, learned positions") {
  check_plan({{"optimizer.optimizer", "sgd"}});
  check_plan({{"optimizer.optimizer", "sgd"}, {"optimizer.sgd_momentum", "0"}, {"precision.params_dtype", "bf16"}});
  check_plan({{"model.untie_embeddings_and_output_weights", "false"},
              {"model.position_embedding_type", "learned_absolute"},
              {"model.add_bias_linear", "true"}});
}

TEST_CASE("plan equals allocation: recomputation") {
  check_plan({{"training.recompute_granularity", "full"},
              {"training.recompute_method", "block"},
              {"training.recompute_num_layers", "1"}});
  check_plan({{"training.recompute_granularity", "selective"}, {"training.recompute_modules", "[core_attn, mlp]"}});
}

TEST_CASE("plan equals allocation: what plan.txt says is what the run's metrics report") {
  const Scratch scratch;
  const Settings settings = tiny({{"run.dir", scratch.path("run")},
                                  {"training.train_iters", "6"},
                                  {"training.eval_interval", "2"},
                                  {"training.eval_iters", "1"},
                                  {"checkpoint.save_interval", "2"}});
  REQUIRE(run_training(load_settings(settings), {}) == ExitCode::kDone);
  const std::string plan = read_file(scratch.path("run/plan.txt"));
  for (int64_t i = 1; i <= 6; ++i) {
    const MetricsLine line = read_metrics(scratch.path("run")).at(i);
    REQUIRE(line.peak_memory_bytes);
    CHECK(plan.find(" " + std::to_string(*line.peak_memory_bytes) + " bytes") != std::string::npos);
  }
}

TEST_CASE("plan: purposes are what their names say") {
  EngineRun fp32(tiny()), bf16(tiny({{"precision.params_dtype", "bf16"}}));
  const MemoryReport a = memory_report(fp32.engine().programs()), b = memory_report(bf16.engine().programs());
  CHECK(a.master == 0);
  CHECK(b.master == a.parameters);  // fp32 copies of bf16 weights
  CHECK(b.parameters < a.parameters);
  CHECK(a.gradients == a.parameters);
  CHECK(b.gradients == a.gradients);
  CHECK(a.optimizer == 2 * a.parameters);
  CHECK(b.optimizer == a.optimizer);
}

}  // namespace megatron::test
