// Meshes and groups against the tables of Megatron-LM's parallel_state, and which rank gets which GPU.
#include "parallel/mesh.h"

#include "base/error.h"
#include "comm/thread_world.h"
#include "parallel/rank_device.h"
#include "tests/catch.h"
#include "tests/program/rig.h"

using namespace megatron;
using namespace megatron::tiny;

namespace {

using Groups = std::vector<std::vector<int>>;

ParallelConfig sizes(int64_t tp, int64_t cp, int64_t pp, int64_t etp = 0, int64_t ep = 1) {
  ParallelConfig p;
  p.tensor_model_parallel_size = tp;
  p.context_parallel_size = cp;
  p.pipeline_model_parallel_size = pp;
  p.expert_tensor_parallel_size = etp;
  p.expert_model_parallel_size = ep;
  return p;
}

Groups groups(const ParallelConfig& p, int64_t world, const std::vector<std::string>& axes) {
  return groups_of(full_mesh(p, world, 0), axes);
}
Groups expert_groups(const ParallelConfig& p, int64_t world, const std::vector<std::string>& axes) {
  return groups_of(full_expert_mesh(p, world, 0), axes);
}

}  // namespace

TEST_CASE("8 ranks, tp 2, dp 2, pp 2") {
  const ParallelConfig p = sizes(2, 1, 2);
  CHECK(groups(p, 8, {"tp"}) == Groups{{0, 1}, {2, 3}, {4, 5}, {6, 7}});
  CHECK(groups(p, 8, {"dp"}) == Groups{{0, 2}, {1, 3}, {4, 6}, {5, 7}});
  CHECK(groups(p, 8, {"pp"}) == Groups{{0, 4}, {1, 5}, {2, 6}, {3, 7}});
  CHECK(groups(p, 8, {"tp", "pp"}) == Groups{{0, 1, 4, 5}, {2, 3, 6, 7}});
  CHECK(expert_groups(p, 8, {"edp"}) == groups(p, 8, {"dp"}));
}

TEST_CASE("8 ranks, tp 2, cp 2, pp 2: dp-cp is cp") {
  const ParallelConfig p = sizes(2, 2, 2);
  CHECK(groups(p, 8, {"cp"}) == Groups{{0, 2}, {1, 3}, {4, 6}, {5, 7}});
  CHECK(groups(p, 8, {"dp", "cp"}) == groups(p, 8, {"cp"}));
  CHECK(groups(p, 8, {"tp", "cp"}) == Groups{{0, 1, 2, 3}, {4, 5, 6, 7}});
  CHECK(groups(p, 8, {"dp"}).size() == 8);
}

TEST_CASE("a hierarchy of context ranks: neighbours share heads, every second one keys") {
  ParallelConfig p = sizes(1, 4, 1);
  p.cp_comm_type = {"a2a+p2p"};
  p.hierarchical_context_parallel_sizes = {2, 2};
  const Mesh mesh = make_mesh(p, 8, 5);
  CHECK(groups_of(mesh, {"cp_a2a"}) == Groups{{0, 1}, {2, 3}, {4, 5}, {6, 7}});
  CHECK(groups_of(mesh, {"cp_p2p"}) == Groups{{0, 2}, {1, 3}, {4, 6}, {5, 7}});
  CHECK(mesh.find("cp") < 0);
  Config config;
  config.parallel = p;
  config.parallel.data_parallel_sharding_strategy = "no_shard";
  for (int rank = 0; rank < 8; ++rank) {
    const ParallelContext context = make_parallel_context(config, 8, rank);
    CHECK(context.context_size() == 4);
    CHECK(context.context_rank() == rank % 4);
  }
}

TEST_CASE("16 ranks, tp 2, cp 2, dp 2, pp 2 with experts: etp 1, ep 4, edp 2") {
  const ParallelConfig p = sizes(2, 2, 2, 1, 4);
  CHECK(groups(p, 16, {"cp"}) == Groups{{0, 2}, {1, 3}, {4, 6}, {5, 7}, {8, 10}, {9, 11}, {12, 14}, {13, 15}});
  CHECK(groups(p, 16, {"dp"}) == Groups{{0, 4}, {1, 5}, {2, 6}, {3, 7}, {8, 12}, {9, 13}, {10, 14}, {11, 15}});
  CHECK(groups(p, 16, {"dp", "cp"}) == Groups{{0, 2, 4, 6}, {1, 3, 5, 7}, {8, 10, 12, 14}, {9, 11, 13, 15}});
  CHECK(groups(p, 16, {"pp"}) == Groups{{0, 8}, {1, 9}, {2, 10}, {3, 11}, {4, 12}, {5, 13}, {6, 14}, {7, 15}});
  CHECK(expert_groups(p, 16, {"ep"}) == Groups{{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9, 10, 11}, {12, 13, 14, 15}});
  CHECK(expert_groups(p, 16, {"edp"}) == Groups{{0, 4}, {1, 5}, {2, 6}, {3, 7}, {8, 12}, {9, 13}, {10, 14}, {11, 15}});
  CHECK(expert_groups(p, 16, {"etp", "ep", "pp"}) == Groups{{0, 1, 2, 3, 8, 9, 10, 11}, {4, 5, 6, 7, 12, 13, 14, 15}});
}

TEST_CASE("16 ranks, tp 2, dp 4, pp 2 with etp 2, ep 2, edp 2") {
  const ParallelConfig p = sizes(2, 1, 2, 2, 2);
  CHECK(groups(p, 16, {"dp"}) == Groups{{0, 2, 4, 6}, {1, 3, 5, 7}, {8, 10, 12, 14}, {9, 11, 13, 15}});
  CHECK(expert_groups(p, 16, {"ep"}) == Groups{{0, 2}, {1, 3}, {4, 6}, {5, 7}, {8, 10}, {9, 11}, {12, 14}, {13, 15}});
  CHECK(expert_groups(p, 16, {"etp", "ep"}) == Groups{{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9, 10, 11}, {12, 13, 14, 15}});
}

TEST_CASE("coordinates, and sizes that do not divide") {
  const Mesh mesh = make_mesh(sizes(2, 1, 2), 8, 6);
  REQUIRE(mesh.axes.size() == 3);  // cp and ep have one rank
  CHECK(mesh.axes[0].name == "tp");
  CHECK(mesh.axes[0].coordinate == 0);
  CHECK(mesh.axes[1].name == "dp");
  CHECK(mesh.axes[1].coordinate == 1);
  CHECK(mesh.axes[2].name == "pp");
  CHECK(mesh.axes[2].coordinate == 1);
  CHECK(make_mesh(sizes(1, 1, 1), 1, 0).axes.empty());
  CHECK(
      message_of([] { full_mesh(sizes(2, 3, 2), 8, 0); }) ==
      "parallel: tensor_model_parallel_size 2, context_parallel_size 3 and pipeline_model_parallel_size 2 make groups "
      "of 12 ranks, which do not divide the 8 ranks that were started; start a multiple of 12 ranks or change the "
      "sizes");
  CHECK(contains(message_of([] { full_expert_mesh(sizes(2, 1, 1, 1, 3), 8, 0); }),
                 "expert_model_parallel_size 3 and pipeline_model_parallel_size 1 make groups of 3 ranks"));
}

TEST_CASE("GPUs go to the ranks of a host in order") {
  const std::vector<std::string> two = {"01", "02"};
  const std::vector<GpuView> hosts = {{"a", 0, true, two}, {"a", 1, true, two}, {"b", 0, true, two}};
  CHECK(choose_gpu(hosts, 0) == 0);
  CHECK(choose_gpu(hosts, 1) == 1);
  CHECK(choose_gpu(hosts, 2) == 0);
  // the launcher shows each rank one GPU of its own
  CHECK(choose_gpu({{"a", 0, true, {"01"}}, {"a", 1, true, {"02"}}}, 1) == 0);
  CHECK(choose_gpu({{"a", 0, false, {}}, {"a", 1, false, {}}}, 1) == -1);
  const auto text = [](const std::vector<GpuView>& ranks) { return message_of([&] { choose_gpu(ranks, 0); }); };
  CHECK(text({{"a", 0, true, two}, {"a", 1, true, two}, {"a", 2, true, two}}) ==
        "run.device: cuda: a runs 3 ranks, but rank 2 (a) sees 2 GPUs; start at most 2 ranks on this host, or show "
        "every rank a GPU of its own");
  CHECK(
      contains(text({{"a", 0, true, {"01"}}, {"a", 1, true, {"01"}}}), "rank 0 (a) and rank 1 (a) would share GPU 01"));
  CHECK(contains(text({{"a", 0, true, {}}}), "rank 0 (a) sees 0 GPUs"));
  CHECK(contains(text({{"a", 0, true, two}, {"b", 0, false, {}}}), "rank 1 (b) has no GPU, rank 0 (a) has one"));
}

TEST_CASE("processors: a rank that its launcher bound to fewer than its share is warned of it") {
  RunConfig run;
  CHECK(binding_warning(run, 4, 64, 64).empty());
  CHECK(binding_warning(run, 4, 16, 64).empty());
  CHECK(binding_warning(run, 4, 32, 64).empty());
  const std::string text = binding_warning(run, 4, 1, 64);
  INFO(text);
  CHECK(text.find("1 of 64 processors, although 4 ranks share them") != std::string::npos);
  CHECK(text.find("--bind-to none") != std::string::npos);
  CHECK(binding_warning(run, 64, 1, 64).empty());
  CHECK(binding_warning(run, 128, 1, 64).empty());
  run.cpu_threads = 1;  // asked for
  CHECK(binding_warning(run, 4, 1, 64).empty());
  CHECK(cpu_threads(run, 4) == 1);
  run.cpu_threads = 0;
  CHECK(cpu_threads(run, 1) >= 1);
  CHECK(cpu_threads(run, 1 << 20) == 1);
}

TEST_CASE("ranks on CPUs share the cores, and each gets a device") {
  RunConfig run;
  run.device = "cpu";
  CHECK(cpu_threads(run, 1 << 20) == 1);
  CHECK(cpu_threads(run, 1) >= cpu_threads(run, 2));
  run_thread_ranks(2, [&](World& world) {
    if (make_device(run, world)->kind() != DeviceKind::kCpu) throw InternalError("not a CPU");
  });
}
