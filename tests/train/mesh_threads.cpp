// Training on meshes with ranks that are threads: whatever the mesh, the steps are those of one rank.
#include <limits>
#include <mutex>

#include "base/strings.h"
#include "tests/catch.h"
#include "tests/train/rank_run.h"

namespace megatron::test {
namespace {

constexpr MeshCase kMeshes[] = {
    {2, 1, false},         {4, 1, false}, {2, 2, false},           {2, 2, true},
    {4, 2, false},         {4, 2, true},  {2, 1, false, 2, "p2p"}, {4, 1, false, 2, "all_gather"},
    {4, 2, true, 2, "p2p"}};

void check_meshes(const Settings& changes) {
  const Settings settings = exact(changes);
  const std::vector<double> one = train_on(settings, {1, 1, false}, 4);
  for (const MeshCase& mesh : kMeshes) {
    INFO(mesh.ranks << " ranks, tp " << mesh.tp << (mesh.sp ? ", sp" : "") << ", cp " << mesh.cp);
    CHECK(worst_difference(train_on(settings, mesh, 4), one) < 1e-10);
  }
}

}  // namespace

TEST_CASE("mesh: LLaMA's and GPT-2's shape, with dropout, train as on one rank") {
  check_meshes({});
  check_meshes({{"model.position_embedding_type", "learned_absolute"},
                {"model.normalization", "LayerNorm"},
                {"model.swiglu", "false"},
                {"model.add_bias_linear", "true"},
                {"model.untie_embeddings_and_output_weights", "false"}});
}

TEST_CASE("mesh: context parallelism of every kind trains and evaluates as one rank") {
  const Settings wide = exact({{"model.num_attention_heads", "4"}, {"model.seq_length", "16"}});
  const std::vector<double> one = train_on(wide, {1, 1, false}, 4);
  for (const char* kind : {"p2p", "all_gather", "a2a", "a2a+p2p"}) {
    for (const MeshCase& mesh : {MeshCase{2, 1, false, 2, kind}, MeshCase{4, 1, false, 4, kind},
                                 MeshCase{8, 2, true, 2, kind}, MeshCase{8, 1, false, 4, kind}}) {
      Settings settings = wide;
      if (kind == std::string("a2a+p2p")) {
        settings["parallel.hierarchical_context_parallel_sizes"] = str_cat("[2, ", mesh.cp / 2, "]");
      }
      INFO(kind << ", " << mesh.ranks << " ranks, cp " << mesh.cp << ", tp " << mesh.tp);
      CHECK(worst_difference(train_on(settings, mesh, 4), one) < 1e-10);
    }
  }
}

TEST_CASE("mesh: divisors of the loss are those of the global batch") {
  check_meshes({{"data.eod_mask_loss", "true"}, {"data.reset_position_ids", "true"}, {"model.vocab_size", "7"}});
  check_meshes(
      {{"training.calculate_per_token_loss", "false"}, {"data.eod_mask_loss", "true"}, {"model.vocab_size", "7"}});
}

TEST_CASE("mesh: recomputation changes nothing") {
  check_meshes({{"training.recompute_granularity", "full"},
                {"training.recompute_method", "uniform"},
                {"training.recompute_num_layers", "1"}});
  check_meshes({{"training.recompute_granularity", "selective"}});
}

namespace {

/// How data-parallel ranks share a step.
const std::vector<Settings> kShares = {
    {{"parallel.overlap_grad_reduce", "true"}, {"parallel.ddp_bucket_size", "2000"}},
    {{"parallel.use_distributed_optimizer", "true"}},
    {{"parallel.data_parallel_sharding_strategy", "optim"},
     {"parallel.overlap_grad_reduce", "true"},
     {"parallel.overlap_param_gather", "true"},
     {"parallel.ddp_bucket_size", "2000"}},
    {{"parallel.data_parallel_sharding_strategy", "optim_grads"}, {"parallel.overlap_param_gather", "true"}},
    {{"parallel.data_parallel_sharding_strategy", "optim_grads_params"}},
    {{"parallel.data_parallel_sharding_strategy", "optim_grads_params"},
     {"parallel.overlap_grad_reduce", "true"},
     {"parallel.overlap_param_gather", "true"}}};

std::string text_of(const Settings& settings) {
  std::string text;
  for (const auto& [key, value] : settings) text += key + "=" + value + " ";
  return text;
}

}  // namespace

TEST_CASE("mesh: whatever data-parallel ranks divide, steps and evaluations are those of one rank") {
  const std::vector<double> one = train_on(exact({}), {1, 1, false}, 4);
  for (const Settings& share : kShares) {
    for (const MeshCase& mesh : {MeshCase{2, 1, false}, MeshCase{4, 1, false}, MeshCase{4, 2, true}}) {
      INFO(mesh.ranks << " ranks, tp " << mesh.tp << ": " << text_of(share));
      CHECK(worst_difference(train_on(exact(share), mesh, 4), one) < 1e-10);
    }
    Settings instances = share;
    if (share.count("parallel.data_parallel_sharding_strategy") == 0) continue;
    instances["parallel.num_distributed_optimizer_instances"] = "2";
    CHECK(worst_difference(train_on(exact(instances), {4, 1, false}, 4), one) < 1e-10);
  }
}

TEST_CASE("mesh: recomputation and divided weights") {
  Settings full = {{"training.recompute_granularity", "full"},
                   {"training.recompute_method", "uniform"},
                   {"training.recompute_num_layers", "1"}};
  const std::vector<double> one = train_on(exact(full), {1, 1, false}, 4);
  for (const size_t share : {2, 5}) {
    Settings settings = exact(full);
    for (const auto& [key, value] : kShares[share]) settings[key] = value;
    CHECK(worst_difference(train_on(settings, {4, 2, true}, 4), one) < 1e-10);
  }
}

TEST_CASE("mesh: two runs give the same bits, 16-bit parameters included") {
  for (const char* dtype : {"fp64", "bf16"}) {
    const Settings settings = exact({{"precision.params_dtype", dtype}});
    CHECK(train_on(settings, {4, 2, true}, 3) == train_on(settings, {4, 2, true}, 3));
  }
}

TEST_CASE("mesh: sequence parallelism gathers again instead of keeping") {
  run_thread_ranks(2, [&](World& world) {
    RankRun run(on_mesh(exact({}), {2, 2, true}), world);
    if (world.rank() > 0) return;
    const Plan& plan = run.engine().programs().train.front();
    int kept = 0, made = 0;
    for (const ValueId v : saved_for_backward(plan)) kept += is_gathered(plan.program, v);
    for (const OpId id : plan.program.list(Phase::kForward)) made += plan.program.op(id).kind->name() == "all_gather";
    CHECK(kept == 0);
    CHECK(made == 5);  // two in each layer, one before the output
  });
}

TEST_CASE("mesh: a bad value is named with its rank, the same on all ranks") {
  std::mutex mutex;
  std::vector<std::string> places;
  run_thread_ranks(4, [&](World& world) {
    RankRun run(on_mesh(exact({}), {4, 2, false}), world);
    const Tensor weight = run.engine().store().find("decoder.layers.1.mlp.linear_fc2.weight");
    if (world.rank() == 3) weight.as<double>()[7] = std::numeric_limits<double>::infinity();
    run.engine().begin_step();
    const std::string place = run.engine().locate_non_finite(run.first_batch(), 1.0 / 96, 1);
    const std::lock_guard lock(mutex);
    places.push_back(place);
  });
  for (const std::string& place : places) {
    INFO(place);
    CHECK(place == places[0]);
    CHECK(starts_with(place, "rank 3 ("));
    CHECK(place.find("decoder.layers.1.mlp") != std::string::npos);
    CHECK(place.find("operation linear") != std::string::npos);
  }
}

TEST_CASE("mesh: the ranks' shares of a checkpoint hold every element once") {
  // With 17 a tensor rank has one more than the other, whose part of a bias can have no elements on some ranks.
  for (const auto& [strategy, width] : std::vector<std::pair<const char*, const char*>>{
           {"no_shard", "32"}, {"optim", "32"}, {"optim_grads_params", "32"}, {"optim", "17"}}) {
    INFO(strategy << ", " << width);
    const Settings shape = {{"parallel.data_parallel_sharding_strategy", strategy},
                            {"model.ffn_hidden_size", width},
                            {"model.add_bias_linear", "true"},
                            {"model.swiglu", "false"},
                            {"optimizer.optimizer", width[0] == '1' ? "sgd" : "adam"}};
    std::mutex mutex;
    std::map<std::string, int64_t> elements, wanted;
    std::vector<int64_t> bytes(4);
    run_thread_ranks(4, [&](World& world) {
      RankRun run(on_mesh(exact(shape), {4, 2, false}), world);
      const std::lock_guard lock(mutex);
      for (const TensorSource& s : checkpoint_tensors(run.engine().train_program(), run.engine().store(), true)) {
        elements[s.record.name] += element_count(s.box.extent);
        wanted[s.record.name] = element_count(s.record.shape);
        bytes[static_cast<size_t>(world.rank())] += element_count(s.box.extent) * size_of(s.record.dtype);
        CHECK(std::ssize(s.data) == element_count(s.box.extent) * size_of(s.record.dtype));
      }
    });
    CHECK(elements == wanted);
    CHECK(elements.size() > 20);
    for (const int64_t one : bytes) CHECK(one > 0);
  }
}

TEST_CASE("mesh: initial weights do not depend on who holds what") {
  std::mutex mutex;
  std::map<std::string, std::map<std::string, std::vector<float>>> all;  // strategy, tensor
  for (const char* strategy : {"no_shard", "optim", "optim_grads_params"}) {
    run_thread_ranks(2, [&](World& world) {
      RankRun run(exact({{"precision.params_dtype", "bf16"}, {"parallel.data_parallel_sharding_strategy", strategy}}),
                  world);
      const std::lock_guard lock(mutex);
      for (const TensorSource& s : checkpoint_tensors(run.engine().train_program(), run.engine().store(), true)) {
        std::vector<float>& whole = all[strategy][s.record.name];
        whole.resize(static_cast<size_t>(element_count(s.record.shape)), -1.0F);
        const std::vector<int64_t>& at = s.box.offset;  // without tp boxes are runs of elements
        int64_t index = 0;
        for (size_t d = 0; d < at.size(); ++d) index = index * s.record.shape[d] + at[d];
        for (int64_t i = 0; i < element_count(s.box.extent); ++i) {
          const std::byte* data = s.data.data() + i * size_of(s.record.dtype);
          whole[static_cast<size_t>(index + i)] = s.record.dtype == DType::kBF16
                                                      ? static_cast<float>(*reinterpret_cast<const BFloat16*>(data))
                                                      : *reinterpret_cast<const float*>(data);
        }
      }
    });
  }
  CHECK(all["optim"] == all["no_shard"]);
  CHECK(all["optim_grads_params"] == all["no_shard"]);
}

TEST_CASE("mesh: the plan shows what ranks divide") {
  std::map<std::string, MemoryReport> reports;
  for (const char* strategy : {"no_shard", "optim", "optim_grads", "optim_grads_params"}) {
    run_thread_ranks(4, [&](World& world) {
      RankRun run(exact({{"precision.params_dtype", "bf16"}, {"parallel.data_parallel_sharding_strategy", strategy}}),
                  world);
      if (world.rank() == 0) reports[strategy] = memory_report(run.engine().programs());
    });
  }
  // Blocks are rounded up to the alignment of the device, which counts in models this small.
  const auto divided = [](int64_t part, int64_t whole) { return part < whole * 2 / 3 && part >= whole / 4; };
  const MemoryReport &none = reports["no_shard"], &optim = reports["optim"], &grads = reports["optim_grads"],
                     &params = reports["optim_grads_params"];
  CHECK(divided(optim.master, none.master));
  CHECK(divided(optim.optimizer, none.optimizer));
  CHECK(optim.gradients == none.gradients);
  CHECK(optim.parameters == none.parameters);
  CHECK(divided(grads.gradients, none.gradients));
  CHECK(grads.parameters == none.parameters);
  CHECK(divided(params.parameters, none.parameters));
  CHECK(params.optimizer == optim.optimizer);
}

}  // namespace megatron::test
