// What a plain (unquoted) YAML scalar means: YAML 1.2 core schema, with the spellings refused that YAML 1.1 readers
// take for something else (010, yes, 1_000), so that a file means the same to everybody.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace megatron {

enum class PlainKind {
  kNull,          ///< empty, ~, null
  kBool,          ///< true, false
  kInt,           ///< 12, -3, 0o17, 0xff
  kFloat,         ///< 1.5, 1e-3, .inf
  kOldBool,       ///< yes, no, on, off, y, n: a string in YAML 1.2, a bool in 1.1
  kLeadingZeros,  ///< 010: ten in YAML 1.2, eight in 1.1
  kUnderscores,   ///< 1_000: a string in YAML 1.2, a number in 1.1
  kString,
};

PlainKind classify_plain(std::string_view text);

/// Value of a kInt text; nullopt when it doesn't fit 64 bits.
std::optional<int64_t> parse_int(std::string_view text);

/// Value of a kInt or kFloat text; nullopt when it overflows.
std::optional<double> parse_float(std::string_view text);

/// Value of a kBool text.
bool parse_bool(std::string_view text);

}  // namespace megatron
