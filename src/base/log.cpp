#include "base/log.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <memory>

namespace megatron {
namespace {

struct Sinks {
  std::shared_ptr<spdlog::sinks::sink> console = std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
  std::shared_ptr<spdlog::logger> logger = std::make_shared<spdlog::logger>("megatron", console);
  Sinks() {
    console->set_level(spdlog::level::info);
    console->set_pattern("%^%l%$: %v");
    logger->set_level(spdlog::level::debug);
    logger->flush_on(spdlog::level::info);
  }
};

// The log is the one process-wide service: a message must be writable from any thread at any time.
Sinks& sinks() {
  static Sinks instance;
  return instance;
}

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarn:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
    case LogLevel::kOff:
      return spdlog::level::off;
  }
  return spdlog::level::info;
}

}  // namespace

void set_log_level(LogLevel level) {
  sinks().console->set_level(to_spdlog(level));
}

void set_log_file(const std::string& path) {
  auto& all = sinks().logger->sinks();
  all.resize(1);
  if (path.empty()) return;
  auto file = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path, /*truncate=*/false);
  file->set_pattern("%Y-%m-%dT%H:%M:%S.%e %l: %v");
  all.push_back(file);
}

void log_debug(std::string_view message) {
  sinks().logger->log(spdlog::level::debug, message);
}
void log_info(std::string_view message) {
  sinks().logger->log(spdlog::level::info, message);
}
void log_warn(std::string_view message) {
  sinks().logger->log(spdlog::level::warn, message);
}
void log_error(std::string_view message) {
  sinks().logger->log(spdlog::level::err, message);
}

bool stderr_is_terminal() {
  return isatty(STDERR_FILENO) != 0;
}

}  // namespace megatron
