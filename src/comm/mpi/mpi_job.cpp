#include "comm/mpi/mpi_job.h"

#include <sched.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <thread>

#include "base/error.h"
#include "base/strings.h"

namespace megatron {
namespace {

using Clock = std::chrono::steady_clock;

/// Between the label of a rank and its reason.
const std::string kFailed = " failed: ";

/// First gives the core to whoever wants it, then sleeps longer and longer, up to a quarter of a millisecond.
void pause(int turn) {
  if (turn < 100) {
    sched_yield();
  } else {
    std::this_thread::sleep_for(std::chrono::microseconds(std::min(250, 10 + (turn - 100))));
  }
}

}  // namespace

void check_mpi(int code, const std::string& what) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  throw DeviceError(str_cat(what, ": ", text.data()));
}

void MpiJob::check_alive(const std::string& what) {
  if (!failed_) {
    int there = 0;
    MPI_Status status;
    if (MPI_Iprobe(MPI_ANY_SOURCE, 0, control_, &there, &status) != MPI_SUCCESS || there == 0) return;
    int size = 0;
    MPI_Get_count(&status, MPI_BYTE, &size);
    reason_.resize(static_cast<size_t>(size));
    MPI_Recv(reason_.data(), size, MPI_BYTE, status.MPI_SOURCE, 0, control_, MPI_STATUS_IGNORE);
    failed_ = true;
  }
  throw PeerFailure(reason_.substr(0, reason_.find(kFailed)), str_cat(reason_, "\n  ", label_, " was in ", what));
}

bool MpiJob::says_first(const std::string& reason) noexcept {
  const auto end = Clock::now() + std::chrono::milliseconds(500);
  for (int there = 0; Clock::now() < end;) {
    MPI_Status status;
    if (MPI_Iprobe(0, 0, control_, &there, &status) != MPI_SUCCESS) return false;
    if (there == 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      continue;
    }
    int size = 0;
    MPI_Get_count(&status, MPI_BYTE, &size);
    std::string text(static_cast<size_t>(size), '\0');
    MPI_Recv(text.data(), size, MPI_BYTE, 0, 0, control_, MPI_STATUS_IGNORE);
    return ends_with(text, kFailed + reason);
  }
  return false;
}

void MpiJob::wait(const std::function<bool()>& ready, const std::string& what) {
  const auto start = Clock::now();
  auto next_look = start + std::chrono::milliseconds(1);
  for (int turn = 0; !ready(); ++turn) {
    pause(turn);
    const auto now = Clock::now();
    if (now < next_look) continue;
    next_look = now + std::chrono::milliseconds(5);
    check_alive(what);
    if (now - start < std::chrono::duration<double>(options_.timeout_seconds)) continue;
    const std::string text = str_cat(what, " did not end within ", options_.timeout_seconds, " s");
    fail(text);
    throw DeviceError(text);
  }
}

void MpiJob::fail(const std::string& reason) noexcept {
  if (failed_) return;
  failed_ = true;
  reason_ = str_cat(label_, kFailed, reason);
  int rank = 0, size = 1;
  MPI_Comm_rank(control_, &rank);
  MPI_Comm_size(control_, &size);
  std::vector<MPI_Request> requests;
  for (int r = 0; r < size; ++r) {
    if (r == rank) continue;
    requests.emplace_back();
    MPI_Isend(reason_.data(), static_cast<int>(reason_.size()), MPI_BYTE, r, 0, control_, &requests.back());
  }
  const auto end = Clock::now() + std::chrono::seconds(1);
  for (int done = 0; done == 0 && Clock::now() < end;) {
    MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE);
    if (done == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

void MpiJob::leave_together() noexcept {
  std::signal(SIGTERM, SIG_IGN);  // this is the end anyway; the launcher's hurry must not cut the report
  MPI_Request request = MPI_REQUEST_NULL;
  if (MPI_Ibarrier(control_, &request) != MPI_SUCCESS) return;
  const auto end = Clock::now() + std::chrono::seconds(2);
  for (int done = 0; done == 0 && Clock::now() < end;) {
    if (MPI_Test(&request, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) return;
    if (done == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

}  // namespace megatron
