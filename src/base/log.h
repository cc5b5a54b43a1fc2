// Logging facade: spdlog stays behind it, because its headers are slow and do not compile under nvcc.
#pragma once

#include <string>
#include <string_view>

namespace megatron {

enum class LogLevel { kDebug, kInfo, kWarn, kError, kOff };

/// Process-wide minimum level of what reaches the console (standard error); the default is kInfo.
void set_log_level(LogLevel level);

/// Copies everything logged from now on to `path` (appended), whatever the console level is. Empty: stop.
void set_log_file(const std::string& path);

void log_debug(std::string_view message);
void log_info(std::string_view message);
void log_warn(std::string_view message);
void log_error(std::string_view message);

/// True when standard error is a terminal.
bool stderr_is_terminal();

}  // namespace megatron
