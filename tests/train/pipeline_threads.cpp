// Training on pipelines with ranks that are threads: whatever the stages, the steps are those of one rank.
#include <mutex>

#include "base/strings.h"
#include "nn/language_model.h"
#include "optim/update_program.h"
#include "program/passes.h"
#include "tests/train/pipeline_run.h"

namespace megatron::test {
namespace {

const std::vector<PipelineCase>& cases_of_four_layers() {
  static const std::vector<PipelineCase> cases = {
      {"pp2", 2, 2, {}},
      {"pp4", 4, 4, {}},
      {"pp2 gpipe", 2, 2, {{"parallel.pipeline_schedule", "gpipe"}}},
      {"pp2 zero-bubble", 2, 2, {{"parallel.pipeline_schedule", "zero-bubble"}}},
      {"pp4 zero-bubble", 4, 4, {{"parallel.pipeline_schedule", "zero-bubble"}}},
      {"pp2, two chunks", 2, 2, {{"parallel.num_virtual_stages_per_pipeline_rank", "2"}}},
      {"pp2, two chunks, zero-bubble",
       2,
       2,
       {{"parallel.num_virtual_stages_per_pipeline_rank", "2"}, {"parallel.pipeline_schedule", "zero-bubble"}}},
      {"pp2, uneven", 2, 2, {{"parallel.decoder_first_pipeline_num_layers", "1"}}},
      {"pp4, ends without layers", 4, 4, {{"parallel.pipeline_model_parallel_layout", "E|tt|tt|L"}}},
      {"pp3 x 2 chunks by layout", 3, 3, {{"parallel.pipeline_model_parallel_layout", "E|t|t|t|t|L"}}},
      {"tp2 x pp2", 4, 2, {{"parallel.tensor_model_parallel_size", "2"}}},
      {"pp2 x dp2", 4, 2, {}},
      {"tp2 x pp2 x dp2, sp",
       8,
       2,
       {{"parallel.tensor_model_parallel_size", "2"}, {"parallel.sequence_parallel", "true"}}},
      {"tp2 x pp2, sp, zero-bubble",
       4,
       2,
       {{"parallel.tensor_model_parallel_size", "2"},
        {"parallel.sequence_parallel", "true"},
        {"parallel.pipeline_schedule", "zero-bubble"}}},
  };
  return cases;
}

/// With what else ranks can share.
const std::vector<PipelineCase>& cases_with_other_axes() {
  static const std::vector<PipelineCase> cases = {
      {"pp2 x cp2", 4, 2, {{"parallel.context_parallel_size", "2"}}},
      {"pp2 x dp2, ZeRO-1", 4, 2, {{"parallel.data_parallel_sharding_strategy", "optim"}}},
      {"pp2 x dp2, ZeRO-2, zero-bubble",
       4,
       2,
       {{"parallel.data_parallel_sharding_strategy", "optim_grads"}, {"parallel.pipeline_schedule", "zero-bubble"}}},
      {"pp2 x dp2, ZeRO-3, two chunks",
       4,
       2,
       {{"parallel.data_parallel_sharding_strategy", "optim_grads_params"},
        {"parallel.num_virtual_stages_per_pipeline_rank", "2"}}},
  };
  return cases;
}

}  // namespace

TEST_CASE("pipeline: gradients of the first step are those of one rank, and a swapped micro-batch is noticed") {
  for (const Settings& model : {Settings{}, kGpt2}) {
    const Settings settings = with(exact({{"model.num_layers", "4"}}), model);
    const Tensors one = first_gradients(settings, 1);
    REQUIRE(one.size() > 20);
    for (const PipelineCase& c : cases_of_four_layers()) {
      INFO(c.name);
      CHECK(difference_of(first_gradients(on_pipeline(settings, c), c.ranks), one) < 1e-12);
    }
    const auto swap = [](int stage, std::vector<Batch>& batches) {
      if (stage == 1) std::swap(batches[1], batches[2]);
    };
    const PipelineCase& two = cases_of_four_layers()[0];
    CHECK(difference_of(first_gradients(on_pipeline(settings, two), 2, swap), one) > 1e-3);
  }
}

TEST_CASE("pipeline: LLaMA's and GPT-2's shape, with dropout, train and are evaluated as on one rank") {
  check_cases({}, cases_of_four_layers());
  check_cases(kGpt2, cases_of_four_layers());
}

TEST_CASE("pipeline: with context parallelism and divided state") {
  check_cases({}, cases_with_other_axes());
  check_cases(kGpt2, cases_with_other_axes());
}

TEST_CASE("pipeline: batches that grow") {
  check_cases({{"training.step_batch_size_schedule", "0:2 48:8"}, {"training.global_batch_size", "8"}},
              {cases_of_four_layers()[1], cases_of_four_layers()[2], cases_of_four_layers()[6]});
}

TEST_CASE("pipeline: 20 steps, three chunks, and numbers of micro-batches that nothing divides") {
  check_cases({}, {cases_of_four_layers()[1], cases_of_four_layers()[5]}, 20);
  const std::vector<PipelineCase> chunks = {
      {"three chunks", 2, 2, {{"parallel.num_layers_per_virtual_pipeline_stage", "1"}}},
      {"three chunks, zero-bubble",
       2,
       2,
       {{"parallel.num_virtual_stages_per_pipeline_rank", "3"}, {"parallel.pipeline_schedule", "zero-bubble"}}},
      {"pp3, two chunks", 3, 3, {{"parallel.num_virtual_stages_per_pipeline_rank", "2"}}}};
  check_cases(with(kGpt2, {{"model.num_layers", "6"}}), chunks);
  for (const char* batch : {"1", "3", "5", "7"}) {
    INFO(batch << " micro-batches");
    check_cases({{"model.num_layers", "6"}, {"training.global_batch_size", batch}}, chunks, 2);
    check_cases({{"training.global_batch_size", batch}}, {cases_of_four_layers()[1], cases_of_four_layers()[4]}, 2);
  }
}

TEST_CASE("pipeline: recomputation, divisors of the loss, documents") {
  const auto& all = cases_of_four_layers();
  const std::vector<PipelineCase> few = {all[0], all[4], all[5], all[12]};
  check_cases({{"training.recompute_granularity", "full"},
               {"training.recompute_method", "uniform"},
               {"training.recompute_num_layers", "1"}},
              few);
  check_cases({{"training.recompute_granularity", "selective"}}, few);
  check_cases({{"data.eod_mask_loss", "true"},
               {"data.reset_position_ids", "true"},
               {"data.reset_attention_mask", "true"},
               {"model.vocab_size", "7"}},
              few);
  check_cases(
      {{"training.calculate_per_token_loss", "false"}, {"data.eod_mask_loss", "true"}, {"model.vocab_size", "7"}}, few);
}

TEST_CASE("pipeline: two runs give the same bits, 16-bit parameters included") {
  for (const char* dtype : {"fp64", "bf16"}) {
    const Settings settings =
        on_pipeline(exact({{"model.num_layers", "4"}, {"precision.params_dtype", dtype}}), cases_of_four_layers()[6]);
    CHECK(train_ranks(settings, 2, 3) == train_ranks(settings, 2, 3));
  }
}

TEST_CASE("pipeline: tied embeddings whose gradients are not summed over the ends are noticed") {
  const Settings settings = with(exact({{"model.num_layers", "4"}}), kGpt2);
  const std::vector<double> one = train_ranks(settings, 1, 3);
  const auto forget = [](const Config& config, TrainPrograms& programs) {
    for (ParameterInfo& p : programs.held.parameters) p.sum_group.clear();
    programs.update = pack(make_update_program(programs.held, config.optimizer, programs.groups, {kLossSum}, {}, "pp"));
  };
  const auto count_twice = [](const Config& config, TrainPrograms& programs) {
    for (ParameterInfo& p : programs.held.parameters) p.owner = true;
    programs.update = pack(make_update_program(programs.held, config.optimizer, programs.groups, {kLossSum}, {}, "pp"));
  };
  const Settings two = on_pipeline(settings, cases_of_four_layers()[0]);
  CHECK(worst_difference(train_ranks(two, 2, 3, forget), one) > 1e-3);
  CHECK(worst_difference(train_ranks(two, 2, 3, count_twice), one) > 1e-3);
}

TEST_CASE("pipeline: a bad value is named with its rank, the same on all ranks") {
  for (const char* chunks : {"1", "2"}) {
    std::mutex mutex;
    std::vector<std::string> places;
    const Settings settings = on_pipeline(exact({{"model.num_layers", "4"}}),
                                          {"", 2, 2, {{"parallel.num_virtual_stages_per_pipeline_rank", chunks}}});
    run_thread_ranks(2, [&](World& world) {
      RankRun run(settings, world);
      const Tensor weight = run.engine().store().find("decoder.layers.2.mlp.linear_fc2.weight");
      if (weight) weight.as<double>()[7] = std::numeric_limits<double>::infinity();
      run.engine().begin_step();
      const std::string place = run.engine().locate_non_finite(run.first_batch(), 1.0 / 96, 1);
      const std::lock_guard lock(mutex);
      places.push_back(place);
    });
    for (const std::string& place : places) {
      INFO(place);
      CHECK(place == places[0]);
      CHECK(starts_with(place, *chunks == '1' ? "rank 1 (" : "rank 0 ("));
      CHECK(place.find("decoder.layers.2.mlp") != std::string::npos);
    }
  }
}

TEST_CASE("pipeline: the stages' shares of a checkpoint hold every element once") {
  std::mutex mutex;
  std::map<std::string, int64_t> elements, wanted;
  const PipelineCase& c = cases_of_four_layers()[12];
  run_thread_ranks(c.ranks, [&](World& world) {
    RankRun run(on_pipeline(with(exact({{"model.num_layers", "4"}}), kGpt2), c), world);
    const std::lock_guard lock(mutex);
    for (const TensorSource& s : checkpoint_tensors(run.engine().train_program(), run.engine().store(), true)) {
      elements[s.record.name] += element_count(s.box.extent);
      wanted[s.record.name] = element_count(s.record.shape);
    }
  });
  CHECK(elements == wanted);
  CHECK(elements.size() > 100);
}

}  // namespace megatron::test
