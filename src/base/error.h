// What can end the work, and with which exit code. One exception type per exit code; the message is written for the
// person at the terminal: it names file, place and remedy.
#pragma once

#include <stdexcept>
#include <string>

namespace megatron {

/// The six exit codes of the program, and no others.
enum class ExitCode : int {
  kDone = 0,
  kUsage = 2,       ///< wrong command line or configuration
  kData = 3,        ///< bad data, tokenizer or checkpoint
  kDevice = 4,      ///< device or communication failure
  kInternal = 70,   ///< a bug of ours
  kResumable = 75,  ///< stopped on request; the same command goes on from the checkpoint
};

/// Base of all errors that end the work; `main` prints `what()` and exits with `code()`.
class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

/// Wrong command line or configuration (exit code 2).
class UsageError : public Error {
 public:
  explicit UsageError(const std::string& message) : Error(ExitCode::kUsage, message) {}
};

/// Bad data, tokenizer or checkpoint (exit code 3).
class DataError : public Error {
 public:
  explicit DataError(const std::string& message) : Error(ExitCode::kData, message) {}
};

/// Device or communication failure (exit code 4).
class DeviceError : public Error {
 public:
  explicit DeviceError(const std::string& message) : Error(ExitCode::kDevice, message) {}
};

/// A broken promise between our own parts (exit code 70). Never reachable from user input.
class InternalError : public Error {
 public:
  explicit InternalError(const std::string& message) : Error(ExitCode::kInternal, message) {}
};

}  // namespace megatron
