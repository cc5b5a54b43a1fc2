// A checkpoint of any mesh goes on on any other: the same weights and optimizer state bit by bit, then the same losses.
#include "base/log.h"
#include "base/strings.h"
#include "tests/catch.h"
#include "tests/train/rank_checkpoints.h"

namespace megatron::test {
namespace {

struct Mesh {
  const char* name;
  int ranks;
  Settings settings;
};

const std::vector<Mesh>& meshes() {
  static const std::vector<Mesh> all = {
      {"1", 1, {}},
      {"tp2", 2, {{"parallel.tensor_model_parallel_size", "2"}}},
      {"pp2", 2, {{"parallel.pipeline_model_parallel_size", "2"}}},
      {"dp4 ZeRO-1", 4, {{"parallel.use_distributed_optimizer", "true"}}},
      {"dp2 ZeRO-3", 2, {{"parallel.data_parallel_sharding_strategy", "optim_grads_params"}}},
      {"tp2 x pp2", 4, {{"parallel.tensor_model_parallel_size", "2"}, {"parallel.pipeline_model_parallel_size", "2"}}},
      {"cp2 x dp2", 4, {{"parallel.context_parallel_size", "2"}}},
  };
  return all;
}

constexpr int64_t kBefore = 10;  ///< iterations until the checkpoint

/// One run on one mesh: where it starts from ("": from initial weights), and where it saves.
struct Leg {
  const Mesh& mesh;
  std::string from, folder;
  int64_t steps_before = 0, steps_after = 0;  ///< the save
};

/// Losses after the save.
std::vector<double> train(const Settings& common, const Leg& leg) {
  Settings settings = common;
  settings["checkpoint.save"] = leg.folder;
  if (!leg.from.empty()) settings["checkpoint.load"] = leg.from;
  for (const auto& [key, value] : leg.mesh.settings) settings[key] = value;
  std::vector<std::vector<double>> losses(static_cast<size_t>(leg.mesh.ranks));
  run_thread_ranks(leg.mesh.ranks, [&](World& world) {
    RankRun run(settings, world);
    if (!leg.from.empty()) load_checkpoint(run);
    run.advance(leg.steps_before);
    save_checkpoint(run, leg.folder);
    for (const StepMetrics& step : run.advance(leg.steps_after)) {
      losses[static_cast<size_t>(world.rank())].push_back(step.lm_loss.value());
    }
  });
  for (const std::vector<double>& told : losses) REQUIRE(told == losses[0]);
  return losses[0];
}

/// The matrix in one type of parameters; returns the largest relative difference of a loss.
double check_matrix(const char* dtype, int64_t steps, double tolerance) {
  const Scratch scratch;
  set_log_level(LogLevel::kError);
  const Settings common = exact({{"precision.params_dtype", dtype},
                                 {"model.untie_embeddings_and_output_weights", "false"},
                                 {"training.train_iters", "60"}});
  double worst = 0;
  for (const Mesh& from : meshes()) {
    const std::string saved = scratch.path(str_cat("from ", from.name));
    const std::vector<double> straight = train(common, {from, "", saved, kBefore, steps});
    const Weights state = checkpoint_weights(saved);
    REQUIRE(state.size() > 30);
    for (const Mesh& to : meshes()) {
      INFO(dtype << ": from " << from.name << " to " << to.name);
      const std::string again = scratch.path(str_cat(from.name, " to ", to.name));
      const std::vector<double> resumed = train(common, {to, saved, again, 0, steps});
      CHECK(difference(checkpoint_weights(again), state) == "");
      REQUIRE(std::ssize(resumed) == steps);
      if (steps == 0) continue;
      const double apart = worst_difference(resumed, straight);
      CHECK(apart <= (&from == &to ? 0.0 : tolerance));
      worst = std::max(worst, apart);
    }
  }
  return worst;
}

}  // namespace

TEST_CASE("matrix fp64: saved on any of seven meshes and resumed on any other", "[full]") {
  const double worst = check_matrix("fp64", 50, 1e-10);
  SUCCEED("worst relative difference of a loss: " << worst);
}

TEST_CASE("matrix fp32: saved on any of seven meshes and resumed on any other", "[full]") {
  const double worst = check_matrix("fp32", 50, 1e-4);
  SUCCEED("worst relative difference of a loss: " << worst);
}

TEST_CASE("matrix bf16: parameters and their master copies come back bit by bit on any mesh", "[full]") {
  check_matrix("bf16", 0, 0);
}

}  // namespace megatron::test
