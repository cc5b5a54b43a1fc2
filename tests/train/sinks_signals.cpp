// Stop signals in real processes, the decision to stop, and exit_status.json.
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "base/file_io.h"
#include "base/host.h"
#include "base/log.h"
#include "base/strings.h"
#include "tests/catch.h"
#include "train/exit_status.h"
#include "train/signals.h"

namespace megatron {
namespace {

struct Scratch {
  std::filesystem::path dir = std::filesystem::temp_directory_path() / str_cat("megatron-signals-", ::getpid());
  Scratch() {
    std::filesystem::remove_all(dir);
    std::filesystem::create_directories(dir / "logs");
  }
  ~Scratch() { std::filesystem::remove_all(dir); }
};

/// Runs `body` in a child process and gives its wait status.
int in_child(const std::function<int()>& body) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) ::_exit(body());
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return status;
}

}  // namespace

TEST_CASE("each stop signal is remembered and does not end the process") {
  for (int signal : {SIGTERM, SIGINT, SIGUSR1}) {
    const SignalGuard guard;
    CHECK(guard.received() == 0);
    ::raise(signal);
    CHECK(guard.received() == signal);
    ::raise(signal == SIGTERM ? SIGUSR1 : SIGTERM);
    CHECK(guard.received() == signal);  // the first one counts
    const StopRequest request = stop_request({}, 5, 0, guard.received());
    CHECK(request.stop());
    CHECK(request.text() == signal_name(signal));
  }
}

TEST_CASE("a second SIGINT ends at once with code 75 and leaves the report") {
  const Scratch scratch;
  const std::string path = exit_status_path(scratch.dir.string(), 0);
  ExitStatus status;
  status.code = ExitCode::kResumable;
  status.reason = "second SIGINT";
  const int result = in_child([&] {
    const SignalGuard guard(path, to_json(status));
    ::raise(SIGINT);
    if (guard.received() != SIGINT || path_exists(path)) return 1;
    ::raise(SIGINT);
    return 2;
  });
  REQUIRE(WIFEXITED(result));
  CHECK(WEXITSTATUS(result) == 75);
  CHECK(nlohmann::json::parse(read_file(path))["reason"] == "second SIGINT");
  CHECK(list_directory(scratch.dir.string()).size() == 2);  // no temporary file is left
}

TEST_CASE("repeated SIGTERM and SIGUSR1 do not end the process") {
  const int result = in_child([] {
    const SignalGuard guard;
    for (int i = 0; i < 5; ++i) ::raise(SIGTERM), ::raise(SIGUSR1);
    return guard.received() == SIGTERM ? 11 : 12;
  });
  REQUIRE(WIFEXITED(result));
  CHECK(WEXITSTATUS(result) == 11);
}

TEST_CASE("the earlier handlers are back after the guard") {
  const int result = in_child([] {
    ::signal(SIGTERM, SIG_DFL);  // the test program has handlers of its own
    { const SignalGuard guard; }
    ::raise(SIGTERM);
    return 1;
  });
  REQUIRE(WIFSIGNALED(result));
  CHECK(WTERMSIG(result) == SIGTERM);
}

TEST_CASE("a closed pipe does not end a guarded process") {
  const int result = in_child([] {
    const SignalGuard guard;
    int ends[2];
    if (::pipe(ends) != 0) return 1;
    ::close(ends[0]);
    return ::write(ends[1], "x", 1) < 0 ? 7 : 2;
  });
  REQUIRE(WIFEXITED(result));
  CHECK(WEXITSTATUS(result) == 7);
}

TEST_CASE("when a run stops early") {
  StopLimits limits;
  CHECK_FALSE(stop_request(limits, 1000, 1e9, 0).stop());
  limits.exit_interval = 50;
  limits.exit_duration_in_mins = 2.5;
  CHECK_FALSE(stop_request(limits, 0, 0, 0).stop());
  CHECK_FALSE(stop_request(limits, 49, 149.9, 0).stop());
  CHECK(stop_request(limits, 49, 150, 0).reason == StopReason::kExitDuration);
  CHECK(stop_request(limits, 50, 0, 0).reason == StopReason::kExitInterval);
  CHECK(stop_request(limits, 100, 150, 0).reason == StopReason::kExitDuration);
  CHECK(stop_request(limits, 100, 150, SIGUSR1).reason == StopReason::kSignal);
  CHECK(stop_request(limits, 50, 0, 0).text() == "run.exit_interval reached");
  CHECK(static_cast<int>(StopReason::kSignal) > static_cast<int>(StopReason::kExitDuration));
}

TEST_CASE("exit_status.json holds code, reason, rank, host, phase and culprit") {
  const Scratch scratch;
  ExitStatus status = status_of(DataError("data/text.bin: ends at byte 12 \xff"));
  status.rank = 3;
  status.host = host_name();
  status.phase = "setup";
  status.culprit = "data/text.bin";
  status.iteration = 40;
  const std::string path = exit_status_path(scratch.dir.string(), 3);
  CHECK(path == (scratch.dir / "logs/exit_status-rank-0003.json").string());
  REQUIRE(write_exit_status(path, status));
  const auto json = nlohmann::json::parse(read_file(path));
  CHECK(json["code"] == 3);
  CHECK(json["name"] == "data");
  CHECK(json["reason"].get<std::string>().find("ends at byte 12") != std::string::npos);
  CHECK(json["rank"] == 3);
  CHECK(json["host"] == host_name());
  CHECK(json["phase"] == "setup");
  CHECK(json["culprit"] == "data/text.bin");
  CHECK(json["iteration"] == 40);
  CHECK(json["time"].get<std::string>().size() == 20);
}

TEST_CASE("exceptions map to exit codes; a report that cannot be written is not fatal") {
  CHECK(status_of(UsageError("x")).code == ExitCode::kUsage);
  CHECK(status_of(DeviceError("x")).code == ExitCode::kDevice);
  CHECK(status_of(InternalError("x")).code == ExitCode::kInternal);
  CHECK(status_of(std::runtime_error("boom")).code == ExitCode::kInternal);
  CHECK(status_of(std::runtime_error("boom")).reason == "boom");
  set_log_level(LogLevel::kOff);
  CHECK_FALSE(write_exit_status("/proc/no/such/folder/exit_status.json", {}));
  set_log_level(LogLevel::kInfo);
}

}  // namespace megatron
