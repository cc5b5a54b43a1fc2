// JSON of files that may be damaged or hostile: bounded depth, no duplicate keys, checked types. Every failure is a
// DataError that names the file and the place.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace megatron {

/// Parses `text`, which begins at byte `base_offset` of the file `path`.
nlohmann::json parse_strict_json(std::string_view text, const std::string& path, int64_t base_offset, int max_depth);

/// Throws DataError("<where>: <what>").
[[noreturn]] void fail_at(const std::string& where, std::string_view what);

/// `value` must be an object that has all of `keys` and no others.
void require_keys(const nlohmann::json& value, std::initializer_list<std::string_view> keys, const std::string& where);

/// Integer in [minimum, 2^62): larger numbers cannot be sizes, and sums of two stay exact.
int64_t json_integer(const nlohmann::json& value, int64_t minimum, const std::string& where);
std::string json_string(const nlohmann::json& value, const std::string& where);
/// Array of integers in [0, 2^62), at most `max_size` of them.
std::vector<int64_t> json_extents(const nlohmann::json& value, size_t max_size, const std::string& where);

/// Product of extents times `element_bytes`; DataError when it does not fit.
int64_t checked_bytes(const std::vector<int64_t>& extents, int64_t element_bytes, const std::string& where);

}  // namespace megatron
