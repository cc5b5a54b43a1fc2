// scripts/wandb_sync.py: what it would send, and against a stand-in for the wandb package that records the calls.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "base/file_io.h"
#include "base/strings.h"
#include "tests/catch.h"

namespace megatron {
namespace {

const char* const kStandIn = R"(import json, os
def note(*words):
    with open(os.environ["CALLS"], "a") as file:
        file.write(" ".join(words) + "\n")
class Run:
    def define_metric(self, name, step_metric=None):
        note("metric", name, str(step_metric))
    def log(self, row):
        note("log", json.dumps(row))
    def finish(self):
        note("finish")
def init(**options):
    note("init", options["project"], options["name"], options["id"], options["resume"], options["mode"])
    return Run()
)";

struct Outcome {
  int code;
  std::string output;  ///< standard output and error
};

/// A run folder and a way to start the script on it.
class SyncTest {
 public:
  SyncTest() {
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(dir_ / "run");
    std::filesystem::create_directories(dir_ / "package");
    append("package/wandb.py", kStandIn);
  }
  ~SyncTest() { std::filesystem::remove_all(dir_); }

  void append(const std::string& name, const std::string& text) const {
    std::ofstream(dir_ / name, std::ios::app | std::ios::binary) << text;
  }

  /// `package` false: Python finds no wandb, whatever is installed (-S: no site packages).
  Outcome sync(const std::string& options, bool package = true) const {
    const std::string output = (dir_ / "output").string();
    const std::string command = str_cat("CALLS=", path("calls"), " PYTHONPATH=", package ? path("package") : "",
                                        " python3 -S " MEGATRON_SOURCE_DIR "/scripts/wandb_sync.py ", path("run"), " ",
                                        options, " > ", output, " 2>&1");
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(output)};
  }

  std::string path(const std::string& name) const { return (dir_ / name).string(); }
  std::string calls() const { return read_file(path("calls")); }

 private:
  std::filesystem::path dir_ = std::filesystem::temp_directory_path() / str_cat("megatron-wandb-", ::getpid());
};

bool has_python() {
  if (std::system("python3 -c '' > /dev/null 2>&1") == 0) return true;
  WARN("python3 is not installed: scripts/wandb_sync.py was not tested");
  return false;
}

}  // namespace

TEST_CASE("wandb_sync --dry-run prints each value once and leaves an unfinished line alone") {
  if (!has_python()) return;
  const SyncTest test;
  test.append("run/metrics.jsonl",
              "{\"iteration\": 0, \"valid_lm_loss\": 9}\n"
              "{\"iteration\": 1, \"lm_loss\": 8.5, \"mfu\": null}\n"
              "{\"iteration\": 2, \"lm_loss\": 8}\n"
              "{\"iteration\": 2, \"lm_loss\": 8, \"test_lm_loss\": 7.5}\n"
              "{\"iteration\": 2, \"lm_loss\": 8, \"test_lm_loss\": 7.5}\n"
              "{\"iteration\": 3, \"lm_lo");
  const Outcome outcome = test.sync("--dry-run --once");
  CHECK(outcome.code == 0);
  CHECK_THAT(outcome.output, Catch::Matchers::StartsWith("{\"iteration\": 0, \"valid_lm_loss\": 9}\n"
                                                         "{\"iteration\": 1, \"lm_loss\": 8.5}\n"
                                                         "{\"iteration\": 2, \"lm_loss\": 8}\n"
                                                         "{\"iteration\": 2, \"test_lm_loss\": 7.5}\n"));
  CHECK_THAT(outcome.output, Catch::Matchers::ContainsSubstring("sent 4 rows"));
  CHECK_FALSE(path_exists(test.path("run/wandb_sync.json")));
  CHECK_THAT(test.sync("--dry-run --once --repeated send").output, Catch::Matchers::ContainsSubstring("sent 5 rows"));
}

TEST_CASE("wandb_sync goes on with the same W&B run where it stopped") {
  if (!has_python()) return;
  const SyncTest test;
  test.append("run/metrics.jsonl", "{\"iteration\": 1, \"lm_loss\": 8}\n{\"iteration\": 2, \"lm_lo");
  REQUIRE(test.sync("--project p --id abc --offline --once").code == 0);
  const std::string first =
      "init p run abc allow offline\nmetric iteration None\nmetric * iteration\nlog {\"iteration\": 1, \"lm_loss\": "
      "8}\nfinish\n";
  CHECK(test.calls() == first);
  // The run was resumed from iteration 0 in the meantime and has ended.
  test.append("run/metrics.jsonl",
              "ss\": 7}\n{\"iteration\": 1, \"lm_loss\": 8}\n{\"iteration\": 3, \"lm_loss\": 6}\n");
  test.append("run/exit_status.json", "{}");
  REQUIRE(test.sync("--project p").code == 0);
  CHECK(test.calls() == first +
                            "init p run abc allow online\nmetric iteration None\nmetric * iteration\n"
                            "log {\"iteration\": 2, \"lm_loss\": 7}\nlog {\"iteration\": 3, \"lm_loss\": 6}\nfinish\n");
}

TEST_CASE("wandb_sync refuses what it cannot use with one clear line") {
  if (!has_python()) return;
  const SyncTest test;
  using Catch::Matchers::ContainsSubstring;
  CHECK_THAT(test.sync("--dry-run --once").output,
             ContainsSubstring("there is no ") && ContainsSubstring("metrics.jsonl"));
  test.append("run/metrics.jsonl", "{\"iteration\": 1, \"lm_loss\": 8}\nnot json\n");
  const Outcome no_package = test.sync("--project p --once", false);
  CHECK(no_package.code == 2);
  CHECK_THAT(no_package.output, ContainsSubstring("pip install wandb"));
  CHECK_THAT(test.sync("--once").output, ContainsSubstring("--project is required"));
  const Outcome damaged = test.sync("--dry-run --once");
  CHECK(damaged.code == 3);
  CHECK_THAT(damaged.output, ContainsSubstring("metrics.jsonl:2: not a metrics line"));
  test.append("run/wandb_sync.json", "{\"id\": \"abc\", \"offset\": 100000}");
  const Outcome shorter = test.sync("--project p --once");
  CHECK(shorter.code == 3);
}

}  // namespace megatron
