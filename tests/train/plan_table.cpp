// What `megatron plan` says of all ranks of a mesh.
#include "base/strings.h"
#include "parallel/mesh.h"
#include "tests/catch.h"
#include "tests/train/rank_run.h"
#include "train/plan_report.h"
#include "train/plan_simulation.h"

namespace megatron::test {
namespace {

struct Planned {
  Planned(const Settings& changes, int64_t world_size) : world(world_size) {
    Settings settings = exact({{"model.num_layers", "4"}});
    for (const auto& [key, value] : changes) settings[key] = value;
    config = load_settings(settings, world).config;
    vocab = open_data(config).vocab_size;
    ranks = plan_ranks(config, vocab, world, planned_ranks(config, world), true);
    text = describe_ranks(config, ranks.plans);
  }
  bool says(const std::string& part) const { return text.find(part) != std::string::npos; }
  int rows_with(const std::string& part) const {
    int rows = 0;
    for (const std::string& line : split(text, '\n')) rows += line.find(part) != std::string::npos ? 1 : 0;
    return rows;
  }

  int64_t world, vocab = 0;
  Config config;
  RankPlans ranks;
  std::string text;
};

}  // namespace

TEST_CASE("plan of all ranks: a row for every rank that differs, the largest is marked") {
  const Planned even({{"parallel.tensor_model_parallel_size", "2"}}, 4);
  INFO(even.text);
  CHECK(even.says("\n  0-3 "));
  CHECK(even.rows_with("largest") == 1);
  CHECK_FALSE(even.says("bubble"));

  // Heads in blocks of 2, 1 and 1, channels of the MLP of 4, 3 and 3.
  const Planned uneven({{"parallel.tensor_model_parallel_size", "3"},
                        {"model.num_attention_heads", "4"},
                        {"model.num_query_groups", "4"},
                        {"model.ffn_hidden_size", "10"}},
                       3);
  INFO(uneven.text);
  CHECK(uneven.rows_with("embedding 0-3 loss") == 2);
  CHECK(uneven.says("\n  0   "));
  CHECK(uneven.says("\n  1-2 "));
  CHECK(uneven.ranks.plans[0].memory.parameters > uneven.ranks.plans[1].memory.parameters);

  const Planned stages({{"parallel.pipeline_model_parallel_size", "2"},
                        {"parallel.num_virtual_stages_per_pipeline_rank", "2"},
                        {"training.global_batch_size", "16"}},
                       4);
  INFO(stages.text);
  CHECK(stages.says("embedding 0, 2 "));
  CHECK(stages.says("1, 3 loss "));
  CHECK(stages.rows_with("largest") == 1);
  CHECK(stages.says("pp calls"));
  CHECK(stages.says("of the work of the busiest stage"));
}

TEST_CASE("plan of all ranks: some stand for the others of a large mesh") {
  const Settings settings = {{"parallel.tensor_model_parallel_size", "2"},
                             {"parallel.pipeline_model_parallel_size", "2"},
                             {"parallel.sequence_parallel", "true"},
                             {"parallel.use_distributed_optimizer", "true"},
                             {"training.global_batch_size", "128"}};
  const Planned large(settings, 256);  // along tp too: 4 ranks
  INFO(large.text);
  REQUIRE(large.ranks.plans.size() == 4);
  CHECK(large.ranks.plans[1].rank == 1);
  CHECK(large.ranks.plans[2].rank == 128);
  CHECK(large.ranks.member_calls > 0);
  CHECK(large.says("4 of 256 ranks (all along tp, pp; along dp the first, whose shares are the largest)"));
  CHECK(large.says("\n  128-255 "));
  const SimulationReport report = prove(large.config, large.ranks);
  CHECK(report.paper.alone > 0);
  CHECK(report.paper.communicators == 2 + 2 * 2);  // tp of two stages; pp, with the update's sums, and pp-backward
  const std::string said = describe(report);
  INFO(said);
  CHECK(said.find("of 4 of 256 ranks (all along tp") != std::string::npos);
  // The last rank of a stage has no more than the first: what stands for it is no smaller.
  const RankPlans last = plan_ranks(large.config, large.vocab, 256, {127, 255}, false);
  for (size_t s = 0; s < 2; ++s) {
    CHECK(last.plans[s].memory.allocated() <= large.ranks.plans[2 * s].memory.allocated());
    CHECK(last.plans[s].parameters <= large.ranks.plans[2 * s].parameters);
  }
}

TEST_CASE("plan of all ranks: every size of a growing batch is proven") {
  const Planned p({{"parallel.pipeline_model_parallel_size", "2"}, {"training.step_batch_size_schedule", "0:2 48:8"}},
                  2);
  CHECK(prove(p.config, p.ranks).micro_batches == std::vector<int>{2, 8});
}

TEST_CASE("plan of all ranks: the bubble follows the stages' work") {
  Planned p({{"parallel.pipeline_model_parallel_size", "2"}}, 2);
  const auto with = [&](double first, double second) {
    for (size_t s = 0; s < 2; ++s) p.ranks.plans[s].train[0].flops = {s == 0 ? first : second, 0, 0};
    return simulate_loads(p.ranks.plans, 8);
  };
  // Even stages of F 1 and B 2: (p - 1) / m.
  CHECK(with(5, 5).bubble == Approx(1.0 / 8));
  // The first stage twice as busy, 4/3 and 2/3 of the mean: two F of 4/3, while the second's F and B take 2 after the
  // first of them; behind that it never waits.
  const PipelineReport report = with(2, 1);
  CHECK(report.busy == Approx(8 * 3 * 4.0 / 3));
  CHECK(report.bubble == Approx((2 - 4.0 / 3) / report.busy));
}

}  // namespace megatron::test
