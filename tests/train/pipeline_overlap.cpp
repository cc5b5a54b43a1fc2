// Pipelines whose data-parallel ranks communicate beside computation: sums of gradients in the last micro-batch,
// gathers of weights in the first, of each chunk.
#include "base/strings.h"
#include "nn/language_model.h"
#include "optim/update_program.h"
#include "program/passes.h"
#include "tests/train/pipeline_run.h"

namespace megatron::test {
namespace {

const char* const kStrategies[] = {"no_shard", "optim", "optim_grads", "optim_grads_params"};

const std::vector<std::pair<std::string, Settings>>& schedules() {
  static const std::vector<std::pair<std::string, Settings>> all = {
      {"1f1b", {}},
      {"two chunks", {{"parallel.num_virtual_stages_per_pipeline_rank", "2"}}},
      {"zero-bubble", {{"parallel.pipeline_schedule", "zero-bubble"}}},
      {"two chunks, zero-bubble",
       {{"parallel.num_virtual_stages_per_pipeline_rank", "2"}, {"parallel.pipeline_schedule", "zero-bubble"}}}};
  return all;
}

/// Both overlaps where there is something to gather; buckets so small that a stage has several.
Settings overlaps(const std::string& strategy) {
  Settings settings = {{"parallel.overlap_grad_reduce", "true"}, {"parallel.ddp_bucket_size", "1500"}};
  if (strategy != "no_shard") settings["parallel.overlap_param_gather"] = "true";
  return settings;
}

/// pp2 x dp2 with every strategy and schedule; `overlap`: false for the same without it.
std::vector<PipelineCase> cases(bool overlap) {
  std::vector<PipelineCase> all;
  for (const char* strategy : kStrategies) {
    for (const auto& [name, schedule] : schedules()) {
      Settings settings = with(schedule, {{"parallel.data_parallel_sharding_strategy", strategy}});
      if (overlap) settings = with(settings, overlaps(strategy));
      all.push_back({str_cat(strategy, ", ", name), 4, 2, settings});
    }
  }
  return all;
}

/// More axes, and instances of the optimizer.
std::vector<PipelineCase> cases_with_other_axes() {
  const auto strategy = [](const char* name, const Settings& more) {
    return with(with(overlaps(name), {{"parallel.data_parallel_sharding_strategy", name}}), more);
  };
  return {{"tp2 x pp2 x dp2, sp, ZeRO-1, two chunks", 8, 2,
           strategy("optim", {{"parallel.tensor_model_parallel_size", "2"},
                              {"parallel.sequence_parallel", "true"},
                              {"parallel.num_virtual_stages_per_pipeline_rank", "2"}})},
          {"cp2 x pp2 x dp2, ZeRO-1, zero-bubble", 8, 2,
           strategy("optim", {{"parallel.context_parallel_size", "2"}, {"parallel.pipeline_schedule", "zero-bubble"}})},
          {"pp2 x dp2 x 2 instances, ZeRO-1", 8, 2,
           strategy("optim", {{"parallel.num_distributed_optimizer_instances", "2"}})},
          {"pp4 x dp2, ZeRO-3, zero-bubble", 8, 4,
           strategy("optim_grads_params", {{"parallel.pipeline_schedule", "zero-bubble"}})}};
}

const Settings& tied() {
  return kGpt2;
}

int count(const Program& program, Phase phase, const char* kind) {
  int found = 0;
  for (const OpId id : program.list(phase)) found += program.op(id).kind->name() == kind;
  return found;
}

}  // namespace

TEST_CASE("pipeline overlap: gradients of the first step are those of one rank") {
  for (const Settings& model : {Settings{}, tied()}) {
    const Settings settings = with(exact({{"model.num_layers", "4"}}), model);
    const Tensors one = first_gradients(settings, 1);
    for (const PipelineCase& c : cases(true)) {
      INFO(c.name);
      CHECK(difference_of(first_gradients(on_pipeline(settings, c), c.ranks), one) < 1e-12);
    }
  }
}

TEST_CASE("pipeline overlap: 20 steps are those of one rank") {
  check_cases(tied(), cases(true), 20);
}

TEST_CASE("pipeline overlap: with other axes, and batches that grow") {
  check_cases({}, cases_with_other_axes());
  check_cases(tied(), cases_with_other_axes());
  const std::vector<PipelineCase> all = cases(true);
  check_cases({{"training.step_batch_size_schedule", "0:2 48:8"}, {"training.global_batch_size", "8"}},
              {all[0], all[6], all[13]}, 5);
}

TEST_CASE("pipeline overlap: the same bits as without, 16-bit parameters included") {
  for (const char* dtype : {"fp64", "bf16"}) {
    const Settings settings = with(exact({{"model.num_layers", "4"}, {"precision.params_dtype", dtype}}), tied());
    const std::vector<PipelineCase> with_overlap = cases(true), without = cases(false);
    for (size_t i = 0; i < with_overlap.size(); ++i) {
      INFO(dtype << " " << with_overlap[i].name);
      CHECK(train_ranks(on_pipeline(settings, with_overlap[i]), 4, 3) ==
            train_ranks(on_pipeline(settings, without[i]), 4, 3));
    }
  }
}

TEST_CASE("pipeline overlap: collectives stand in the programs of the chunks, once per step") {
  for (const auto& [name, schedule] : schedules()) {
    INFO(name);
    std::mutex mutex;
    run_thread_ranks(4, [&](World& world) {
      const PipelineCase c{name, 4, 2,
                           with(with(schedule, overlaps("optim")), {{"parallel.use_distributed_optimizer", "true"}})};
      RankRun run(on_pipeline(exact({{"model.num_layers", "4"}}), c), world);
      const TrainPrograms& programs = run.engine().programs();
      const std::lock_guard lock(mutex);
      const bool weight_phase = programs.schedule == ScheduleKind::kZeroBubble;
      for (const Plan& plan : programs.train) {
        const Program& program = plan.program;
        CHECK(count(program, Phase::kForward, "all_gather_into") >= 2);
        // Under zero-bubble what only sums norms may stay in B.
        const int late = count(program, Phase::kWeightGradient, "reduce_scatter_into");
        CHECK(late + count(program, Phase::kBackward, "reduce_scatter_into") >= 2);
        CHECK((late > 0) == weight_phase);
        for (const auto& list : program.lists) {
          for (const OpId id : list) {
            const Op& op = program.op(id);
            if (op.kind->comm_axis() == "dp") CHECK((op.edge && op.stream == Stream::kComm));
          }
        }
      }
      CHECK(count(programs.update.program, Phase::kForward, "reduce_scatter_into") == 0);
      CHECK(count(programs.update.program, Phase::kForward, "all_gather_into") == 0);
    });
  }
}

TEST_CASE("pipeline overlap: sums made twice, or not known to be made, are noticed") {
  const Settings settings = with(exact({{"model.num_layers", "4"}}), tied());
  const std::vector<double> one = train_ranks(settings, 1, 3);
  const auto sum_again = [](const Config& config, TrainPrograms& programs) {
    std::erase_if(programs.held.by_name, [&](const auto& entry) { return programs.held.is_alias(entry.second); });
    programs.update = pack(make_update_program(programs.held, config.optimizer, programs.groups, {kLossSum}, {}, "pp"));
  };
  const PipelineCase c{"", 4, 2, overlaps("no_shard")};
  CHECK(worst_difference(train_ranks(on_pipeline(settings, c), 4, 3), one) < 1e-10);
  CHECK(worst_difference(train_ranks(on_pipeline(settings, c), 4, 3, sum_again), one) > 1e-3);
}

}  // namespace megatron::test
