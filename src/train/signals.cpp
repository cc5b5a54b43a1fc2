#include "train/signals.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>

#include "base/check.h"
#include "base/error.h"
#include "base/strings.h"

namespace megatron {
namespace {

constexpr std::array<int, 3> kStopSignals = {SIGTERM, SIGINT, SIGUSR1};

// A signal handler has no argument of ours: what it touches has to be global. There is one guard at a time.
struct HandlerState {
  std::atomic<bool> installed{false};
  std::atomic<int> first_signal{0};
  std::atomic<int> interrupts{0};
  std::string abort_path;
  std::string abort_temporary;
  std::string abort_report;
  std::array<struct sigaction, kStopSignals.size()> before{};
  struct sigaction pipe_before {};
};

static_assert(std::atomic<int>::is_always_lock_free, "the handler may use lock-free atomics only");

HandlerState& state() {
  static HandlerState instance;
  return instance;
}

// The handler may not run the guard of a function-local static; it is set before the handlers are installed.
HandlerState* handler_state = nullptr;

/// open, write, rename and _exit are async-signal-safe.
[[noreturn]] void abort_at_once(const HandlerState& s) {
  if (!s.abort_path.empty()) {
    const int fd = ::open(s.abort_temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd >= 0) {
      const ssize_t written = ::write(fd, s.abort_report.data(), s.abort_report.size());
      if (::close(fd) == 0 && written == static_cast<ssize_t>(s.abort_report.size())) {
        ::rename(s.abort_temporary.c_str(), s.abort_path.c_str());
      }
    }
  }
  ::_exit(static_cast<int>(ExitCode::kResumable));
}

void on_signal(int signal) {
  const int saved_errno = errno;
  HandlerState& s = *handler_state;
  int none = 0;
  s.first_signal.compare_exchange_strong(none, signal);
  if (signal == SIGINT && s.interrupts.fetch_add(1) > 0) abort_at_once(s);
  errno = saved_errno;
}

}  // namespace

std::string signal_name(int signal) {
  switch (signal) {
    case SIGTERM:
      return "SIGTERM";
    case SIGINT:
      return "SIGINT";
    case SIGUSR1:
      return "SIGUSR1";
    default:
      return str_cat("signal ", signal);
  }
}

std::string StopRequest::text() const {
  switch (reason) {
    case StopReason::kGoOn:
      return "none";
    case StopReason::kExitInterval:
      return "run.exit_interval reached";
    case StopReason::kExitDuration:
      return "run.exit_duration_in_mins is over";
    case StopReason::kSignal:
      return signal == 0 ? "a signal on another rank" : signal_name(signal);
  }
  throw InternalError("unknown stop reason");
}

StopRequest stop_request(const StopLimits& limits, int64_t iteration, double elapsed_seconds, int signal) {
  if (signal != 0) return {StopReason::kSignal, signal};
  if (limits.exit_duration_in_mins && elapsed_seconds >= *limits.exit_duration_in_mins * 60.0) {
    return {StopReason::kExitDuration, 0};
  }
  if (limits.exit_interval && iteration > 0 && iteration % *limits.exit_interval == 0) {
    return {StopReason::kExitInterval, 0};
  }
  return {};
}

SignalGuard::SignalGuard(const std::string& abort_path, const std::string& abort_report) {
  HandlerState& s = state();
  MEGATRON_CHECK(!s.installed.exchange(true), "two signal guards in one process");
  s.first_signal = 0;
  s.interrupts = 0;
  s.abort_path = abort_path;
  s.abort_temporary = str_cat(abort_path, ".abort-", ::getpid());
  s.abort_report = abort_report;
  handler_state = &s;
  struct sigaction action = {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (int signal : kStopSignals) sigaddset(&action.sa_mask, signal);
  for (size_t i = 0; i < kStopSignals.size(); ++i) ::sigaction(kStopSignals[i], &action, &s.before[i]);
  struct sigaction ignore = {};
  ignore.sa_handler = SIG_IGN;
  ::sigaction(SIGPIPE, &ignore, &s.pipe_before);
}

SignalGuard::~SignalGuard() {
  HandlerState& s = state();
  for (size_t i = 0; i < kStopSignals.size(); ++i) ::sigaction(kStopSignals[i], &s.before[i], nullptr);
  ::sigaction(SIGPIPE, &s.pipe_before, nullptr);
  s.installed = false;
}

int SignalGuard::received() const {
  return state().first_signal;
}

}  // namespace megatron
