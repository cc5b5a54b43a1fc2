#include "checkpoint/strict_json.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/strings.h"

namespace megatron {

using nlohmann::json;

namespace {

constexpr int64_t kMaxInteger = (int64_t{1} << 62) - 1;

/// Watches a parse for depth and duplicate keys, which the library would let pass.
class ParseGuard {
 public:
  ParseGuard(std::string path, int max_depth) : path_(std::move(path)), max_depth_(max_depth) {}

  bool operator()(int /*depth*/, json::parse_event_t event, json& parsed) {
    switch (event) {
      case json::parse_event_t::object_start:
      case json::parse_event_t::array_start:
        keys_.emplace_back();
        if (std::ssize(keys_) > max_depth_) fail_at(path_, str_cat("JSON nested deeper than ", max_depth_, " levels"));
        break;
      case json::parse_event_t::object_end:
      case json::parse_event_t::array_end:
        keys_.pop_back();
        break;
      case json::parse_event_t::key: {
        const auto& key = parsed.get_ref<const std::string&>();
        if (!keys_.back().insert(key).second) fail_at(path_, str_cat("the key '", key, "' appears twice"));
        break;
      }
      case json::parse_event_t::value:
        break;
    }
    return true;
  }

 private:
  std::string path_;
  int max_depth_;
  std::vector<std::set<std::string>> keys_;
};

}  // namespace

json parse_strict_json(std::string_view text, const std::string& path, int64_t base_offset, int max_depth) {
  ParseGuard guard(path, max_depth);
  const json::parser_callback_t callback = [&](int depth, json::parse_event_t event, json& parsed) {
    return guard(depth, event, parsed);
  };
  try {
    return json::parse(text, callback);
  } catch (const json::parse_error& error) {
    throw DataError(str_cat(path, ": byte ", base_offset + static_cast<int64_t>(error.byte), ": not valid JSON (",
                            error.what(), ")"));
  } catch (const json::exception& error) {
    throw DataError(str_cat(path, ": from byte ", base_offset, ": not usable JSON (", error.what(), ")"));
  }
}

void fail_at(const std::string& where, std::string_view what) {
  throw DataError(str_cat(where, ": ", what));
}

void require_keys(const json& value, std::initializer_list<std::string_view> keys, const std::string& where) {
  if (!value.is_object()) fail_at(where, str_cat("an object is expected, not ", value.type_name()));
  for (std::string_view key : keys) {
    if (!value.contains(key)) fail_at(where, str_cat("the key '", key, "' is missing"));
  }
  for (const auto& [key, unused] : value.items()) {
    if (std::find(keys.begin(), keys.end(), key) == keys.end()) fail_at(where, str_cat("unknown key '", key, "'"));
  }
}

int64_t json_integer(const json& value, int64_t minimum, const std::string& where) {
  if (!value.is_number_integer()) fail_at(where, str_cat("an integer is expected, not ", value.dump(-1, ' ', true)));
  const bool too_large = value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(kMaxInteger);
  if (too_large || value.get<int64_t>() < minimum) {
    fail_at(where, str_cat(value.dump(), " is outside of [", minimum, ", 2^62)"));
  }
  return value.get<int64_t>();
}

std::string json_string(const json& value, const std::string& where) {
  if (!value.is_string()) fail_at(where, str_cat("a string is expected, not ", value.type_name()));
  return value.get<std::string>();
}

std::vector<int64_t> json_extents(const json& value, size_t max_size, const std::string& where) {
  if (!value.is_array()) fail_at(where, str_cat("a list of integers is expected, not ", value.type_name()));
  if (value.size() > max_size) fail_at(where, str_cat(value.size(), " dimensions, at most ", max_size, " are allowed"));
  std::vector<int64_t> extents;
  for (const json& item : value) extents.push_back(json_integer(item, 0, where));
  return extents;
}

int64_t checked_bytes(const std::vector<int64_t>& extents, int64_t element_bytes, const std::string& where) {
  if (std::find(extents.begin(), extents.end(), 0) != extents.end()) return 0;
  int64_t bytes = element_bytes;
  for (int64_t extent : extents) {
    if (__builtin_mul_overflow(bytes, extent, &bytes) || bytes > kMaxInteger) {
      fail_at(where, "the size in bytes does not fit 62 bits");
    }
  }
  return bytes;
}

}  // namespace megatron
