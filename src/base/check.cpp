#include "base/check.h"

#include "base/error.h"

namespace megatron {

void fail_check(const char* file, int line, const char* condition, const std::string& message) {
  throw InternalError(std::string(file) + ":" + std::to_string(line) + ": check failed: " + condition + ": " + message);
}

int64_t div_exact(int64_t numerator, int64_t denominator) {
  MEGATRON_CHECK(denominator != 0 && numerator % denominator == 0,
                 std::to_string(denominator) + " does not divide " + std::to_string(numerator));
  return numerator / denominator;
}

}  // namespace megatron
