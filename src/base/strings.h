// Small string helpers that need nothing but the standard library.
#pragma once

#include <cstdint>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace megatron {

/// Concatenates anything that has operator<<.
template <typename... Parts>
std::string str_cat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

std::vector<std::string> split(std::string_view text, char separator);
std::string join(const std::vector<std::string>& parts, std::string_view separator);
std::string_view trim(std::string_view text);
bool starts_with(std::string_view text, std::string_view prefix);
bool ends_with(std::string_view text, std::string_view suffix);
std::string lower(std::string_view text);

/// Levenshtein distance with transpositions counted as one edit.
int edit_distance(std::string_view a, std::string_view b);

/// The candidate nearest to `word`, or an empty string when none is near (distance > max(2, length / 3)).
std::string closest_match(std::string_view word, const std::vector<std::string>& candidates);

/// "1.5 GiB", "12 B".
std::string format_bytes(double bytes);
/// "8.03 B", "124.4 M" (decimal thousands).
std::string format_count(double count);
/// "17d03h", "2h05m", "3m20s", "4.2s".
std::string format_duration(double seconds);

/// 64-bit FNV-1a. Stable for ever: random numbers are keyed by it.
constexpr uint64_t hash_name(std::string_view name) {
  uint64_t hash = 14695981039346656037ull;
  for (char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ull;
  return hash;
}

}  // namespace megatron
