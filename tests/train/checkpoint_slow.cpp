// Storage that is slower than ranks may stand still: a save is no hang.
#include <chrono>
#include <thread>

#include "tests/catch.h"
#include "tests/train/rank_checkpoints.h"

namespace megatron::test {
namespace {

constexpr auto kSlow = std::chrono::milliseconds(1200);

/// Each step of a save takes twice as long as a rank may stand still.
class SlowStorage : public FileOps {
 public:
  int make_directory(const std::string& path) override {  // begin
    if (path.find(".tmp-") != std::string::npos) std::this_thread::sleep_for(kSlow);
    return FileOps::make_directory(path);
  }
  int open_for_writing(const std::string& path, Create mode) override {  // shards, manifest
    if (path.find("shard-00001-00000") != std::string::npos || path.find("manifest") != std::string::npos) {
      std::this_thread::sleep_for(kSlow);
    }
    return FileOps::open_for_writing(path, mode);
  }
};

}  // namespace

TEST_CASE("saving: a save may take longer than a rank may stand still", "[full]") {
  const Scratch scratch;
  SlowStorage storage;
  const Settings settings =
      exact({{"parallel.distributed_timeout_minutes", "0.01"}, {"checkpoint.save", scratch.path("run")}});
  const auto start = std::chrono::steady_clock::now();
  run_thread_ranks(2, [&](World& world) {
    RankRun run(settings, world);
    run.advance(1);
    run.ranks().first_step_is_done();  // until then the limit is higher
    save_checkpoint(run, scratch.path("run"), storage);
  });
  CHECK(std::chrono::steady_clock::now() - start >= 3 * kSlow);
  CHECK(CheckpointReader::open_latest(scratch.path("run"))->iteration() == 1);
}

}  // namespace megatron::test
