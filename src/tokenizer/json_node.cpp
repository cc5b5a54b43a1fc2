#include "tokenizer/json_node.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file_io.h"
#include "base/strings.h"

namespace megatron {
namespace {

/// '~' and '/' within a key are written ~0 and ~1 (RFC 6901).
std::string escaped(const std::string& key) {
  std::string result;
  for (char c : key) {
    if (c == '~') {
      result += "~0";
    } else if (c == '/') {
      result += "~1";
    } else {
      result += c;
    }
  }
  return result;
}

constexpr int kMostLevels = 100;  // tokenizer files need about ten; our own readers recurse

/// Line on which the nesting gets deeper than kMostLevels, or 0.
int64_t too_deep_line(const std::string& text) {
  int64_t line = 1;
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\n') ++line;
    if (in_string) {
      if (c == '\\') ++i;
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kMostLevels) return line;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return 0;
}

}  // namespace

void JsonNode::fail(const std::string& what) const {
  throw DataError(str_cat(*file_, ": ", pointer_.empty() ? "/" : pointer_, ": ", what));
}

std::optional<JsonNode> JsonNode::get(const std::string& key) const {
  if (!value_->is_object()) fail(str_cat("must be an object, is ", value_->type_name()));
  const auto found = value_->find(key);
  if (found == value_->end() || found->is_null()) return std::nullopt;
  return JsonNode(*found, *file_, str_cat(pointer_, "/", escaped(key)));
}

JsonNode JsonNode::at(const std::string& key) const {
  std::optional<JsonNode> found = get(key);
  if (!found) fail(str_cat("has no '", key, "'. The file is incomplete: fetch or write it again"));
  return *found;
}

JsonNode JsonNode::item(size_t index) const {
  return JsonNode((*value_)[index], *file_, pointer_ + "/" + std::to_string(index));
}

size_t JsonNode::array_size() const {
  if (!value_->is_array()) fail(str_cat("must be an array, is ", value_->type_name()));
  return value_->size();
}

const std::string& JsonNode::string() const {
  if (!value_->is_string()) fail(str_cat("must be a string, is ", value_->type_name()));
  return value_->get_ref<const std::string&>();
}

int64_t JsonNode::integer() const {
  if (!value_->is_number_integer()) fail(str_cat("must be an integer, is ", value_->type_name()));
  if (value_->is_number_unsigned() && value_->get<uint64_t>() > uint64_t{1} << 62) fail("the number is too large");
  return value_->get<int64_t>();
}

bool JsonNode::boolean(const std::string& key, bool fallback) const {
  const std::optional<JsonNode> found = get(key);
  if (!found) return fallback;
  if (!found->value().is_boolean()) found->fail(str_cat("must be true or false, is ", found->value().type_name()));
  return found->value().get<bool>();
}

nlohmann::json parse_json_file(const std::string& path) {
  return parse_json_text(read_file(path), path);
}

nlohmann::json parse_json_text(const std::string& text, const std::string& path) {
  if (const int64_t line = too_deep_line(text); line != 0) {
    throw DataError(str_cat(path, ":", line, ": nested deeper than ", kMostLevels,
                            " levels. The file is damaged: fetch or write it again"));
  }
  try {
    return nlohmann::json::parse(text);
  } catch (const nlohmann::json::exception& error) {
    std::string what = error.what();
    if (what.size() > 300) what = what.substr(0, 300) + "...";
    throw DataError(str_cat(path, ": not valid JSON: ", what, ". The file is damaged: fetch or write it again"));
  }
}

}  // namespace megatron
