// Saves of a run in the foreground and in the background: the same checkpoints, none lost, whatever fails.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>

#include "base/error.h"
#include "base/file_io.h"
#include "base/strings.h"
#include "checkpoint/layout.h"
#include "checkpoint/reader.h"
#include "tests/catch.h"
#include "tests/checkpoint/helpers.h"
#include "tests/train/trainer_helpers.h"
#include "train/checkpoint_saver.h"
#include "train/trainer.h"

namespace megatron::test {
namespace {

using testing::contains;
using testing::HookedOps;

constexpr const char* kModes[] = {"false", "true"};

Settings saving(const Scratch& scratch, const std::string& name, const std::string& background,
                const Settings& changes = {}) {
  Settings s = tiny({{"checkpoint.async_save", background},
                     {"checkpoint.save_interval", "2"},
                     {"training.train_iters", "12"},
                     {"run.dir", scratch.path(name)}});
  for (const auto& [key, value] : changes) s[key] = value;
  return s;
}

/// Code and message of a run whose checkpoints are written through `ops`.
std::pair<int, std::string> run_with(FileOps& ops, const Settings& settings) {
  TrainOptions options;
  options.checkpoint_ops = &ops;
  try {
    return {static_cast<int>(run_training(load_settings(settings), options)), ""};
  } catch (const Error& error) {
    return {static_cast<int>(error.code()), error.what()};
  }
}

std::string log_of(const Scratch& scratch, const std::string& name) {
  return read_file(scratch.path(name + "/logs/rank-0000.log"));
}

/// Waits before each file is begun, so that a save outlasts several steps, which change what is not yet read.
class SlowOps : public FileOps {
 public:
  int open_for_writing(const std::string& path, Create mode) override {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    return FileOps::open_for_writing(path, mode);
  }
};

}  // namespace

TEST_CASE("saving: checkpoints and metrics are the same in the background, and each is whole") {
  const Scratch scratch;
  SlowOps ops;  // the state has changed before it is written
  for (const char* mode : kModes) REQUIRE(run_with(ops, saving(scratch, mode, mode)).first == 0);
  const auto straight = read_metrics(scratch.path("false")), other = read_metrics(scratch.path("true"));
  for (int64_t i = 1; i <= 12; ++i) CHECK(straight.at(i).lm_loss == other.at(i).lm_loss);
  for (int64_t i = 2; i <= 12; i += 2) {
    CAPTURE(i);
    CHECK(difference(checkpoint_weights(scratch.path("false/checkpoints"), i),
                     checkpoint_weights(scratch.path("true/checkpoints"), i)) == "");
    CHECK(CheckpointReader::open(scratch.path("true/checkpoints"), i).state_int("iteration") == i);
  }
  CHECK(contains(read_file(scratch.path("true/plan.txt")), "host memory"));
  CHECK_FALSE(contains(read_file(scratch.path("false/plan.txt")), "host memory"));
  CHECK(contains(log_of(scratch, "true"), "in the background"));
}

TEST_CASE("saving: training goes on during a save, the next save waits, and so does the end") {
  const Scratch scratch;
  SlowOps ops;
  const auto [code, message] = run_with(ops, saving(scratch, "run", "true"));
  INFO(message);
  REQUIRE(code == 0);
  const std::string log = log_of(scratch, "run");
  // Two steps take a millisecond, a save some hundred: the second must have found the first under way.
  CHECK(contains(log, "waiting for the checkpoint of iteration 2, which is still being written"));
  CHECK(log.find("saving iteration 2 in the background") < log.find("waiting for the checkpoint of iteration 2"));
  for (int64_t i = 2; i <= 12; i += 2) {
    CHECK(CheckpointReader::open(scratch.path("run/checkpoints"), i).iteration() == i);
    CHECK(log.find("saved " + scratch.path("run/checkpoints/") + iteration_name(i)) != std::string::npos);
  }
}

TEST_CASE("saving: a failed save is a warning, the next one works, and the last one must not fail") {
  for (const char* mode : kModes) {
    CAPTURE(mode);
    const Scratch scratch;
    std::atomic<int> fails{1};
    const auto full_disk = [&](int, const std::string& name, const std::string& path) {
      return name == "open" && contains(path, "shard-") && fails.fetch_sub(1) > 0 ? ENOSPC : 0;
    };
    HookedOps once(full_disk);
    auto [code, message] = run_with(once, saving(scratch, "once", mode));
    INFO(message);
    CHECK(code == 0);
    CHECK(contains(log_of(scratch, "once"), "the checkpoint of iteration 2 was not saved: cannot"));
    CHECK(contains(log_of(scratch, "once"), "No space left on device"));
    CHECK(contains(log_of(scratch, "once"), "failed save 1 of 3"));
    CHECK_FALSE(path_exists(scratch.path("once/checkpoints/iter_0000002")));
    CHECK(path_exists(scratch.path("once/checkpoints/iter_0000004")));
    CHECK(read_metrics(scratch.path("once")).size() == 12);

    fails = 1000;
    HookedOps always(full_disk);
    std::tie(code, message) = run_with(always, saving(scratch, "always", mode));
    CHECK(code == 3);
    CHECK(contains(message, "iteration 6 was not saved"));
    CHECK(contains(message, "failed save number 3 in a row"));
    CHECK(list_directory(scratch.path("always/checkpoints")) == std::vector<std::string>{".owner"});

    fails = 1;
    HookedOps last(full_disk);
    std::tie(code, message) = run_with(last, saving(scratch, "last", mode, {{"checkpoint.save_interval", "100"}}));
    CHECK(code == 3);
    CHECK(contains(message, "iteration 12 was not saved"));
    CHECK(run_training(load_settings(saving(scratch, "last", mode)), {}) == ExitCode::kDone);
  }
}

TEST_CASE("saving: a stop in an iteration whose save failed tries again") {
  const Scratch scratch;
  std::atomic<int> fails{1};
  HookedOps ops([&](int, const std::string& name, const std::string&) {
    return name == "rename" && fails.fetch_sub(1) > 0 ? EIO : 0;
  });
  const auto [code, message] = run_with(ops, saving(scratch, "run", "true", {{"run.exit_interval", "2"}}));
  INFO(message);
  CHECK(code == 75);
  CHECK(CheckpointReader::open_latest(scratch.path("run/checkpoints"))->iteration() == 2);
}

TEST_CASE("saving: a run whose folder another one took over ends, and publishes nothing") {
  for (const char* mode : kModes) {
    const Scratch scratch;
    const std::string owner = scratch.path("run/checkpoints/.owner");
    std::atomic<int> saves{0};
    HookedOps ops([&](int, const std::string& name, const std::string& path) {
      if (name == "mkdir" && contains(path, ".tmp-") && ++saves == 2) std::filesystem::remove(owner);
      return 0;
    });
    const auto [code, message] = run_with(ops, saving(scratch, "run", mode));
    CHECK(code == 3);
    CHECK(contains(message, "another job has taken over the checkpoint folder"));
    CHECK(CheckpointReader::open_latest(scratch.path("run/checkpoints"))->iteration() == 2);
  }
}

/// A run that dies before file operation `k` of its saves; false when it had fewer and ended by itself.
bool dies_before(int k, const Settings& settings) {
  const pid_t child = ::fork();
  if (child == 0) {
    HookedOps ops([k](int now, const std::string&, const std::string&) {
      if (now == k) ::_exit(137);
      return 0;
    });
    ::_exit(run_with(ops, settings).first);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  REQUIRE((WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 137));
  return WEXITSTATUS(status) == 137;
}

/// The same points for both modes; `step` leaves some out.
void enumerate_crashes(int step) {
  const Scratch reference;
  REQUIRE(run_training(load_settings(saving(reference, "run", "false", {{"training.train_iters", "6"}})), {}) ==
          ExitCode::kDone);
  for (const char* mode : kModes) {
    int points = 0, newest_seen = 0;
    for (int k = 0;; k += step) {
      CAPTURE(mode, k);
      const Scratch scratch;
      const Settings settings =
          saving(scratch, "run", mode, {{"training.train_iters", "6"}, {"checkpoint.most_recent_k", "1"}});
      const bool died = dies_before(k, settings);
      ++points;
      std::vector<std::string> skipped;
      const std::string folder = scratch.path("run/checkpoints");
      const auto reader = CheckpointReader::open_latest(folder, Verify::kFull, &skipped);
      CHECK(skipped.empty());
      if (reader) {
        newest_seen += reader->iteration() > 2;
        CHECK(difference(checkpoint_weights(folder),
                         checkpoint_weights(reference.path("run/checkpoints"), reader->iteration())) == "");
      }
      if (!died) break;
    }
    CHECK(points * step > 60);  // three saves and two deletions
    CHECK(newest_seen > points / 3);
  }
}

TEST_CASE("saving: a crash before file operations of a run's saves leaves a whole checkpoint or none") {
  enumerate_crashes(7);
}

TEST_CASE("saving: a crash before any file operation of a run's saves", "[full]") {
  enumerate_crashes(1);
}

}  // namespace megatron::test
