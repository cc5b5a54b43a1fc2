#include "config/scalar.h"

#include <charconv>
#include <cmath>
#include <limits>

#include "base/strings.h"

namespace megatron {
namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

bool all_in(std::string_view text, std::string_view set) {
  return !text.empty() && text.find_first_not_of(set) == std::string_view::npos;
}

constexpr std::string_view kDecimal = "0123456789";

std::string_view without_sign(std::string_view text) {
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) text.remove_prefix(1);
  return text;
}

/// digits [. digits] | . digits, then an optional exponent; `text` has no sign.
bool is_decimal_float(std::string_view text) {
  size_t i = 0;
  size_t digits = 0;
  while (i < text.size() && is_digit(text[i])) ++i, ++digits;
  if (i < text.size() && text[i] == '.') {
    ++i;
    while (i < text.size() && is_digit(text[i])) ++i, ++digits;
  }
  if (digits == 0) return false;
  if (i == text.size()) return true;
  if (text[i] != 'e' && text[i] != 'E') return false;
  return all_in(without_sign(text.substr(i + 1)), kDecimal);
}

bool is_number_with_underscores(std::string_view text) {
  if (text.find('_') == std::string_view::npos || text.empty() || !is_digit(text[0])) return false;
  std::string bare;
  for (const char c : text) {
    if (c != '_') bare += c;
  }
  return is_decimal_float(bare);
}

}  // namespace

PlainKind classify_plain(std::string_view text) {
  if (text.empty() || text == "~" || text == "null" || text == "Null" || text == "NULL") return PlainKind::kNull;
  if (text == "true" || text == "True" || text == "TRUE") return PlainKind::kBool;
  if (text == "false" || text == "False" || text == "FALSE") return PlainKind::kBool;
  const std::string low = lower(text);
  if (low == "yes" || low == "no" || low == "on" || low == "off" || low == "y" || low == "n") {
    return PlainKind::kOldBool;
  }
  if (starts_with(text, "0o") && all_in(text.substr(2), "01234567")) return PlainKind::kInt;
  if (starts_with(text, "0x") && all_in(text.substr(2), "0123456789abcdefABCDEF")) return PlainKind::kInt;
  const std::string_view bare = without_sign(text);
  if (all_in(bare, kDecimal)) {
    return bare.size() > 1 && bare[0] == '0' ? PlainKind::kLeadingZeros : PlainKind::kInt;
  }
  if (is_decimal_float(bare)) return PlainKind::kFloat;
  if (bare == ".inf" || bare == ".Inf" || bare == ".INF") return PlainKind::kFloat;
  if (text == ".nan" || text == ".NaN" || text == ".NAN") return PlainKind::kFloat;
  if (is_number_with_underscores(bare)) return PlainKind::kUnderscores;
  return PlainKind::kString;
}

std::optional<int64_t> parse_int(std::string_view text) {
  int base = 10;
  if (starts_with(text, "0o")) base = 8;
  if (starts_with(text, "0x")) base = 16;
  if (base != 10) text.remove_prefix(2);
  if (!text.empty() && text[0] == '+') text.remove_prefix(1);
  int64_t value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (result.ec != std::errc() || result.ptr != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<double> parse_float(std::string_view text) {
  const bool negative = !text.empty() && text[0] == '-';
  const std::string low = lower(without_sign(text));
  if (low == ".inf")
    return negative ? -std::numeric_limits<double>::infinity() : std::numeric_limits<double>::infinity();
  if (low == ".nan") return std::numeric_limits<double>::quiet_NaN();
  if (const auto integer = parse_int(text)) return static_cast<double>(*integer);
  double value = 0;
  const auto result = std::from_chars(low.data(), low.data() + low.size(), value);
  if (result.ec != std::errc() || result.ptr != low.data() + low.size() || !std::isfinite(value)) return std::nullopt;
  return negative ? -value : value;
}

bool parse_bool(std::string_view text) {
  return text[0] == 't' || text[0] == 'T';
}

}  // namespace megatron
