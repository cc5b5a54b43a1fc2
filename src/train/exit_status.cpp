#include "train/exit_status.h"

#include <unistd.h>

#include <array>
#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>

#include "base/file_io.h"
#include "base/log.h"
#include "base/strings.h"
#include "comm/world.h"

namespace megatron {
namespace {

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts = {};
  ::gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

}  // namespace

std::string exit_code_name(ExitCode code) {
  switch (code) {
    case ExitCode::kDone:
      return "done";
    case ExitCode::kUsage:
      return "usage";
    case ExitCode::kData:
      return "data";
    case ExitCode::kDevice:
      return "device";
    case ExitCode::kInternal:
      return "internal";
    case ExitCode::kResumable:
      return "resumable";
  }
  throw InternalError("unknown exit code");
}

ExitStatus status_of(const std::exception& error) {
  ExitStatus status;
  const auto* ours = dynamic_cast<const Error*>(&error);
  status.code = ours != nullptr ? ours->code() : ExitCode::kInternal;
  status.reason = error.what();
  if (const auto* peer = dynamic_cast<const PeerFailure*>(&error)) status.culprit = peer->culprit();
  return status;
}

std::string to_json(const ExitStatus& status) {
  nlohmann::ordered_json json;
  json["code"] = static_cast<int>(status.code);
  json["name"] = exit_code_name(status.code);
  json["reason"] = status.reason;
  json["rank"] = status.rank;
  json["host"] = status.host;
  json["phase"] = status.phase;
  json["culprit"] = status.culprit;
  json["iteration"] = status.iteration;
  json["time"] = utc_now();
  // A message may quote bytes of a damaged file.
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

std::string exit_status_path(const std::string& run_dir, int64_t rank) {
  if (rank == 0) return path_join(run_dir, "exit_status.json");
  char name[64];
  std::snprintf(name, sizeof name, "logs/exit_status-rank-%04lld.json", static_cast<long long>(rank));
  return path_join(run_dir, name);
}

bool write_exit_status(const std::string& path, const ExitStatus& status) noexcept {
  try {
    atomic_write_file(path, to_json(status));
    return true;
  } catch (const std::exception& error) {
    try {
      log_error(str_cat("cannot leave the exit status: ", error.what()));
    } catch (...) {  // nothing is left to tell it to
    }
    return false;
  }
}

}  // namespace megatron
