// Walks a JSON document and names file, JSON pointer and remedy when something is not as it should be.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

namespace megatron {

/// A value within a document. Cheap to copy; the document must outlive it.
class JsonNode {
 public:
  JsonNode(const nlohmann::json& value, const std::string& file, std::string pointer)
      : value_(&value), file_(&file), pointer_(std::move(pointer)) {}

  /// Throws DataError("<file>: <pointer>: <what>").
  [[noreturn]] void fail(const std::string& what) const;

  const nlohmann::json& value() const { return *value_; }
  /// Nothing when the key is missing or null; fails when this is no object.
  std::optional<JsonNode> get(const std::string& key) const;
  JsonNode at(const std::string& key) const;
  JsonNode item(size_t index) const;
  size_t array_size() const;  ///< fails when this is no array

  const std::string& string() const;
  int64_t integer() const;
  bool boolean(const std::string& key, bool fallback) const;  ///< of a member
  std::string type() const { return at("type").string(); }

  const std::string& file() const { return *file_; }
  const std::string& pointer() const { return pointer_; }

 private:
  const nlohmann::json* value_;
  const std::string* file_;
  std::string pointer_;
};

/// Parses the text of the file `path`; DataError with line and column when it is not JSON.
nlohmann::json parse_json_text(const std::string& text, const std::string& path);
/// Reads and parses.
nlohmann::json parse_json_file(const std::string& path);

}  // namespace megatron
