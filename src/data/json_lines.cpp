#include "data/json_lines.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/strings.h"

namespace megatron {
namespace {

/// RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF.
bool valid_utf8(std::string_view text) {
  const unsigned char* p = reinterpret_cast<const unsigned char*>(text.data());
  const unsigned char* end = p + text.size();
  while (p < end) {
    uint64_t word;
    if (end - p >= 8 && (std::memcpy(&word, p, 8), (word & 0x8080808080808080ull) == 0)) {
      p += 8;
      continue;
    }
    const unsigned c = *p;
    const int more = c < 0x80                ? 0
                     : c >= 0xC2 && c < 0xE0 ? 1
                     : c >= 0xE0 && c < 0xF0 ? 2
                     : c >= 0xF0 && c < 0xF5 ? 3
                                             : -1;
    if (more < 0 || end - p <= more) return false;
    for (int i = 1; i <= more; ++i) {
      if ((p[i] & 0xC0) != 0x80) return false;
    }
    if ((c == 0xE0 && p[1] < 0xA0) || (c == 0xED && p[1] > 0x9F) || (c == 0xF0 && p[1] < 0x90) ||
        (c == 0xF4 && p[1] > 0x8F)) {
      return false;
    }
    p += more + 1;
  }
  return true;
}

void append_utf8(std::string& out, unsigned code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | (code >> 6));
    out += static_cast<char>(0x80 | (code & 63));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | (code >> 12));
    out += static_cast<char>(0x80 | ((code >> 6) & 63));
    out += static_cast<char>(0x80 | (code & 63));
  } else {
    out += static_cast<char>(0xF0 | (code >> 18));
    out += static_cast<char>(0x80 | ((code >> 12) & 63));
    out += static_cast<char>(0x80 | ((code >> 6) & 63));
    out += static_cast<char>(0x80 | (code & 63));
  }
}

/// Strict recursive-descent scan. Every function returns false on anything it isn't sure about.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : p_(text.data()), end_(p_ + text.size()) {}

  void skip_space() {
    while (p_ < end_ && (*p_ == ' ' || *p_ == '\t' || *p_ == '\n' || *p_ == '\r')) ++p_;
  }
  bool take(char c) {
    if (p_ == end_ || *p_ != c) return false;
    ++p_;
    return true;
  }
  bool at(char c) const { return p_ < end_ && *p_ == c; }
  bool at_end() const { return p_ == end_; }

  /// A string literal; `out` null: check only.
  bool string(std::string* out) {
    if (!take('"')) return false;
    if (out != nullptr) out->clear();
    for (;;) {
      const char* plain = p_;
      while (p_ < end_ && *p_ != '"' && *p_ != '\\' && static_cast<unsigned char>(*p_) >= 0x20) ++p_;
      if (out != nullptr) out->append(plain, static_cast<size_t>(p_ - plain));
      if (take('"')) return true;
      if (!take('\\') || !escape(out)) return false;
    }
  }

  bool value(int depth) {
    if (p_ == end_ || depth > 64) return false;
    switch (*p_) {
      case '"':
        return string(nullptr);
      case '{':
        return container('}', depth, true);
      case '[':
        return container(']', depth, false);
      case 't':
        return word("true");
      case 'f':
        return word("false");
      case 'n':
        return word("null");
      default:
        return number();
    }
  }

 private:
  bool word(std::string_view text) {
    if (static_cast<size_t>(end_ - p_) < text.size() || std::string_view(p_, text.size()) != text) return false;
    p_ += text.size();
    return true;
  }

  bool digits() {
    const char* first = p_;
    while (p_ < end_ && *p_ >= '0' && *p_ <= '9') ++p_;
    return p_ != first;
  }

  bool number() {
    const char* first = p_;
    take('-');
    if (!take('0') && !digits()) return false;
    if (take('.') && !digits()) return false;
    // The full parser refuses numbers that overflow a double: leave long ones and exponents to it.
    return p_ - first < 100 && !at('e') && !at('E');
  }

  bool container(char close, int depth, bool object) {
    ++p_;
    skip_space();
    if (take(close)) return true;
    for (;;) {
      skip_space();
      if (object) {
        if (!string(nullptr)) return false;
        skip_space();
        if (!take(':')) return false;
        skip_space();
      }
      if (!value(depth + 1)) return false;
      skip_space();
      if (take(close)) return true;
      if (!take(',')) return false;
    }
  }

  bool hex4(unsigned& code) {
    if (end_ - p_ < 4) return false;
    code = 0;
    for (int i = 0; i < 4; ++i) {
      const char c = *p_++;
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) return false;
      code = code * 16 + static_cast<unsigned>(digit);
    }
    return true;
  }

  /// After a backslash.
  bool escape(std::string* out) {
    if (p_ == end_) return false;
    const char c = *p_++;
    if (c == 'u') {
      unsigned code, low;
      if (!hex4(code)) return false;
      if (code >= 0xDC00 && code < 0xE000) return false;
      if (code >= 0xD800 && code < 0xDC00) {
        if (!take('\\') || !take('u') || !hex4(low) || low < 0xDC00 || low >= 0xE000) return false;
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
      }
      if (out != nullptr) append_utf8(*out, code);
      return true;
    }
    static constexpr std::string_view kFrom = "\"\\/bfnrt", kTo = "\"\\/\b\f\n\r\t";
    const size_t which = kFrom.find(c);
    if (which == std::string_view::npos) return false;
    if (out != nullptr) *out += kTo[which];
    return true;
  }

  const char *p_, *end_;
};

[[noreturn]] void fail(const std::string& file, int64_t line, const std::string& what) {
  throw DataError(str_cat(file, ":", line, ": ", what));
}

std::string key_list(const nlohmann::json& object) {
  std::vector<std::string> names;
  for (const auto& item : object.items()) names.push_back(item.key());
  return join(names, ", ");
}

void extract_slow(std::string_view line, const std::vector<std::string>& keys, const std::string& file, int64_t number,
                  std::vector<JsonTexts>& values) {
  nlohmann::json object;
  try {
    object = nlohmann::json::parse(line);
  } catch (const nlohmann::json::exception& error) {
    // Its messages read "[json.exception.name.number] parse error at line 1, column 9: ...".
    std::string what = error.what();
    if (const size_t head = what.find("] "); head != std::string::npos) what.erase(0, head + 2);
    if (const size_t line_one = what.find("line 1, "); line_one != std::string::npos) what.erase(line_one, 8);
    fail(file, number, "malformed JSON: " + what);
  }
  if (!object.is_object()) fail(file, number, str_cat("a JSON object is needed, this is a ", object.type_name()));
  values.assign(keys.size(), {});
  for (size_t i = 0; i < keys.size(); ++i) {
    const auto found = object.find(keys[i]);
    if (found == object.end()) {
      fail(file, number,
           str_cat("no key '", keys[i], "'; keys here: ", key_list(object), " (choose with --json-keys)"));
    }
    const bool list = found->is_array();
    if (!found->is_string() && !list) {
      fail(file, number, str_cat("key '", keys[i], "': text is needed, this is a ", found->type_name()));
    }
    if (!list) {
      values[i].push_back(found->get<std::string>());
      continue;
    }
    for (const nlohmann::json& text : *found) {
      if (!text.is_string()) fail(file, number, str_cat("key '", keys[i], "': the list holds a ", text.type_name()));
      values[i].push_back(text.get<std::string>());
    }
  }
}

}  // namespace

bool extract_texts_fast(std::string_view line, const std::vector<std::string>& keys, std::vector<JsonTexts>& values) {
  if (!valid_utf8(line)) return false;
  values.assign(keys.size(), {});
  size_t found = 0;
  std::string key;
  Scanner scan(line);
  scan.skip_space();
  if (!scan.take('{')) return false;
  scan.skip_space();
  if (scan.at('}')) return false;
  for (;;) {
    scan.skip_space();
    if (!scan.string(&key)) return false;
    scan.skip_space();
    if (!scan.take(':')) return false;
    scan.skip_space();
    size_t which = 0;
    while (which < keys.size() && keys[which] != key) ++which;
    if (which == keys.size()) {
      if (!scan.value(0)) return false;
    } else {
      if (!values[which].empty()) return false;
      if (!scan.string(&values[which].emplace_back())) return false;
      ++found;
    }
    scan.skip_space();
    if (scan.take('}')) break;
    if (!scan.take(',')) return false;
  }
  scan.skip_space();
  return scan.at_end() && found == keys.size();
}

void extract_texts(std::string_view line, const std::vector<std::string>& keys, const std::string& file,
                   int64_t line_number, std::vector<JsonTexts>& values) {
  if (!extract_texts_fast(line, keys, values)) extract_slow(line, keys, file, line_number, values);
}

}  // namespace megatron
