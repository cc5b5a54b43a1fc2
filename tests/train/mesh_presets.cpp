// The files of configs/meshes/: every rank of each fits on its GPU, and a step of it is proven on paper.
#include <chrono>
#include <filesystem>
#include <set>

#include "config/load.h"
#include "tests/catch.h"
#include "train/plan_simulation.h"

namespace megatron::test {
namespace {

struct MeshPreset {
  const char* file;
  int64_t ranks, planned;
  int stages;
};

constexpr MeshPreset kMeshPresets[] = {
    {"gpt3_175b_1024.yaml", 1024, 16, 16},
    {"gpt3_175b_4608.yaml", 4608, 12, 12},
    {"llama3_70b_64.yaml", 64, 64, 8},
    {"llama3_405b_1024.yaml", 1024, 32, 16},
};

const std::string kFolder = std::string(MEGATRON_SOURCE_DIR) + "/configs/meshes/";

}  // namespace

TEST_CASE("mesh presets: every file is in the table, and the table has no other") {
  std::set<std::string> found, listed;
  for (const auto& entry : std::filesystem::directory_iterator(kFolder)) found.insert(entry.path().filename().string());
  for (const MeshPreset& preset : kMeshPresets) listed.insert(preset.file);
  CHECK(found == listed);
}

TEST_CASE("mesh presets: every rank fits on a GPU of 80 GB, and a step of all of them is proven in seconds") {
  for (const MeshPreset& preset : kMeshPresets) {
    INFO(preset.file);
    LoadOptions options;
    options.world_size = preset.ranks;
    const Config config = load_config({kFolder + preset.file}, {}, options).config;
    const auto begin = std::chrono::steady_clock::now();
    const RankPlans ranks =
        plan_ranks(config, *config.model.vocab_size, preset.ranks, planned_ranks(config, preset.ranks), true);
    const SimulationReport report = prove(config, ranks);
    CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(30));  // a third of it on two cores
    CHECK(report.stages == preset.stages);
    CHECK(report.ranks == preset.planned);
    CHECK(report.paper.transfers > 0);
    for (const RankPlan& plan : ranks.plans) {
      CHECK(plan.memory.allocated() < 76'000'000'000);  // 4 GB are left to libraries
    }
  }
}

}  // namespace megatron::test
