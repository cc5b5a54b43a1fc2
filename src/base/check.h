// Internal checks. Included by device code too, so this header needs only the standard library; messages are
// formatted out of line.
#pragma once

#include <cstdint>
#include <string>

namespace megatron {

/// Throws InternalError("file:line: check failed: condition: message").
[[noreturn]] void fail_check(const char* file, int line, const char* condition, const std::string& message);

/// Exact division; throws InternalError when `denominator` does not divide `numerator`.
int64_t div_exact(int64_t numerator, int64_t denominator);

constexpr int64_t div_ceil(int64_t numerator, int64_t denominator) {
  return (numerator + denominator - 1) / denominator;
}

constexpr int64_t round_up(int64_t value, int64_t multiple) {
  return div_ceil(value, multiple) * multiple;
}

/// Narrowing conversion that throws InternalError when the value changes.
template <typename To, typename From>
To narrow(From value) {
  const To result = static_cast<To>(value);
  if (static_cast<From>(result) != value || ((result < To{}) != (value < From{}))) {
    fail_check(__FILE__, __LINE__, "narrow", std::to_string(value) + " does not fit the target type");
  }
  return result;
}

}  // namespace megatron

/// Checks a promise between our own parts (never user input). `message` is any expression that makes a std::string.
#define MEGATRON_CHECK(condition, message)                                                          \
  do {                                                                                              \
    if (!(condition)) ::megatron::fail_check(__FILE__, __LINE__, #condition, std::string(message)); \
  } while (false)
