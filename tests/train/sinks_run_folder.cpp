// The run folder: its files, its lock, and what env.txt may not tell.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "base/error.h"
#include "base/host.h"
#include "base/log.h"
#include "base/strings.h"
#include "tests/catch.h"
#include "train/exit_status.h"
#include "train/run_folder.h"

namespace megatron {
namespace {

struct Scratch {
  std::filesystem::path dir = std::filesystem::temp_directory_path() / str_cat("megatron-run-", ::getpid());
  Scratch() { std::filesystem::remove_all(dir); }
  ~Scratch() {
    set_log_file("");
    std::filesystem::remove_all(dir);
  }
  std::string run() const { return (dir / "out/tiny").string(); }
};

}  // namespace

TEST_CASE("a run folder gets its files, and a second start replaces and appends") {
  const Scratch scratch;
  {
    const RunFolder folder(scratch.run(), 0);
    CHECK(folder.metrics_path() == scratch.run() + "/metrics.jsonl");
    folder.describe("a: 1\n", "plan one\n", "env\n", {"megatron", "pretrain", "--config", "my file.yaml"});
    REQUIRE(write_exit_status(folder.exit_status_path(), {}));
    log_debug("a message for the log file");
  }
  const RunFolder folder(scratch.run(), 0);
  CHECK_FALSE(path_exists(folder.exit_status_path()));  // it was of the earlier start
  folder.describe("a: 2\n", "plan two\n", "env\n", {"megatron", "pretrain"});
  CHECK(read_file(folder.path("resolved.yaml")) == "a: 2\n");
  CHECK(read_file(folder.path("plan.txt")) == "plan two\n");
  CHECK(read_file(folder.path("env.txt")) == "env\n");
  const std::vector<std::string> commands = split(read_file(folder.path("command.txt")), '\n');
  REQUIRE(commands.size() == 7);
  CHECK(commands[0].substr(0, 2) == "# ");
  CHECK(commands[1].substr(0, 3) == "cd ");
  CHECK(commands[2] == "megatron pretrain --config 'my file.yaml'");
  CHECK(commands[5] == "megatron pretrain");
  CHECK(folder.log_path() == scratch.run() + "/logs/rank-0000.log");
  CHECK(path_exists(folder.log_path()));
}

TEST_CASE("two runs cannot share a folder; other ranks can") {
  const Scratch scratch;
  const RunFolder folder(scratch.run(), 0);
  using Catch::Matchers::ContainsSubstring;
  CHECK_THROWS_AS(RunFolder(scratch.run(), 0), UsageError);
  CHECK_THROWS_WITH(RunFolder(scratch.run(), 0), ContainsSubstring("in use by process " + std::to_string(::getpid())));
  const RunFolder other(scratch.run(), 12);
  CHECK(other.log_path() == scratch.run() + "/logs/rank-0012.log");
}

TEST_CASE("a quoted command line is what the shell had read") {
  CHECK(shell_quoted({"megatron", "--set", "a.b=c"}) == "megatron --set a.b=c");
  CHECK(shell_quoted({"", "it's", "$HOME", "a\nb"}) == "'' 'it'\\''s' '$HOME' 'a\nb'");
}

TEST_CASE("env.txt shows what matters and no secrets") {
  ::setenv("NCCL_ALGO", "Ring", 1);
  ::setenv("SLURM_JWT", "do-not-tell", 1);
  ::setenv("MEGATRON_API_KEY", "do-not-tell", 1);
  ::setenv("UNRELATED", "do-not-tell", 1);
  const std::string report = environment_report({{"megatron", "1.2.3"}});
  ::unsetenv("SLURM_JWT");
  ::unsetenv("MEGATRON_API_KEY");
  ::unsetenv("UNRELATED");
  ::unsetenv("NCCL_ALGO");
  using Catch::Matchers::ContainsSubstring;
  CHECK_THAT(report, ContainsSubstring("megatron: 1.2.3\n") && ContainsSubstring("  NCCL_ALGO=Ring\n") &&
                         ContainsSubstring("host: " + host_name()) && ContainsSubstring("build: ") &&
                         ContainsSubstring("system: Linux") && ContainsSubstring("memory: "));
  CHECK_THAT(report, !ContainsSubstring("do-not-tell"));
  CHECK(is_reported_variable("OMP_NUM_THREADS"));
  CHECK(is_reported_variable("WORLD_SIZE"));
  CHECK_FALSE(is_reported_variable("HOME"));
}

}  // namespace megatron
