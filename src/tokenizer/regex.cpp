#include "tokenizer/regex.h"

#include "base/check.h"
#include "base/error.h"
#include "base/strings.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace megatron {

struct Regex::State {
  using Code = std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)>;
  Code code{nullptr, &pcre2_code_free};
  std::string place;
};

namespace {

std::string pcre2_message(int code) {
  PCRE2_UCHAR text[256] = {};
  pcre2_get_error_message(code, text, sizeof text);
  return std::string(reinterpret_cast<const char*>(text));
}

/// True for a counted repetition at i with a plus behind it, {1,3}+.
bool repeated_count(const std::string& pattern, size_t i) {
  if (pattern[i] != '{') return false;
  const size_t close = pattern.find_first_not_of("0123456789,", i + 1);
  return close != std::string::npos && close > i + 1 && pattern.compare(close, 2, "}+") == 0;
}

/// Constructs that both engines accept and read differently.
const char* other_meaning(const std::string& pattern) {
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] == '\\') {
      const char next = i + 1 < pattern.size() ? pattern[i + 1] : '\0';
      if (next == 'h' || next == 'H') return "\\h (a hexadecimal digit)";
      if (next == 'Q' || next == 'R' || next == 'X' || next == 'K') return "\\Q, \\R, \\X or \\K";
      if (next == 'Z' || next == 'z' || next == 'A' || next == 'G') return "an anchor (\\A, \\z, \\Z, \\G)";
      ++i;
    } else if (!in_class && repeated_count(pattern, i)) {
      return "a plus behind a counted repetition ({1,3}+)";
    } else if (in_class) {
      if (pattern[i] == ']') in_class = false;
      if (pattern[i] == '[') return "a class within a class";
      if (pattern.compare(i, 2, "&&") == 0) return "an intersection of classes (&&)";
    } else if (pattern[i] == '[') {
      in_class = true;
      if (pattern.compare(i, 2, "[^") == 0) ++i;
      if (pattern.compare(i + 1, 1, "]") == 0) return "a class that begins with a bracket";
    } else if (pattern.compare(i, 2, "(?") == 0) {
      const size_t flags_end = pattern.find_first_not_of("imx-", i + 2);
      const bool flags = flags_end != std::string::npos && (pattern[flags_end] == ':' || pattern[flags_end] == ')');
      if (flags && pattern.find('m', i + 2) < flags_end) return "the flag (?m)";
    }
  }
  return nullptr;
}

/// Spells out \s and \S: PCRE2 counts U+180E as white space, Unicode does not any more.
std::string with_plain_spaces(const std::string& pattern) {
  constexpr std::string_view kSpaces =
      R"(\t-\r\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
  constexpr std::string_view kOthers =
      R"(\x00-\x08\x0e-\x1f\x21-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027})"
      R"(\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";
  std::string result;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char next = pattern[++i];
      if (next == 's' || next == 'S') {
        result += str_cat(in_class ? "" : "[", next == 's' ? kSpaces : kOthers, in_class ? "" : "]");
      } else {
        result += c;
        result += next;
      }
      continue;
    }
    if (in_class ? c == ']' : c == '[') in_class = !in_class;
    result += c;
  }
  return result;
}

}  // namespace

Regex::Regex(const std::string& pattern, const std::string& place) : state_(std::make_unique<State>()) {
  state_->place = place;
  if (const char* what = other_meaning(pattern)) {
    throw DataError(str_cat(place, ": the regular expression uses ", what,
                            ", which is not supported. Rewrite the expression without it"));
  }
  const std::string plain = with_plain_spaces(pattern);
  int error = 0;
  PCRE2_SIZE offset = 0;
  using Context = std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)>;
  const Context context(pcre2_compile_context_create(nullptr), &pcre2_compile_context_free);
  MEGATRON_CHECK(context != nullptr, "out of memory");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  const uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_MATCH_INVALID_UTF | PCRE2_NEVER_BACKSLASH_C;
  state_->code.reset(
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(plain.data()), plain.size(), options, &error, &offset, context.get()));
  if (state_->code == nullptr) {
    throw DataError(str_cat(place, ": the regular expression can't be used: ", pcre2_message(error), " at offset ",
                            offset, " of ", plain));
  }
  pcre2_jit_compile(state_->code.get(), PCRE2_JIT_COMPLETE);  // where there is no JIT, the interpreter does the work
}

Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;

std::vector<Span> Regex::spans(std::string_view text) const {
  std::vector<Span> result;
  using MatchData = std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)>;
  const MatchData data(pcre2_match_data_create_from_pattern(state_->code.get(), nullptr), &pcre2_match_data_free);
  MEGATRON_CHECK(data != nullptr, "out of memory");
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  size_t done = 0, from = 0;
  while (from <= text.size()) {
    int count = pcre2_match(state_->code.get(), subject, text.size(), from, 0, data.get(), nullptr);
    if (count == PCRE2_ERROR_JIT_STACKLIMIT) {
      count = pcre2_match(state_->code.get(), subject, text.size(), from, PCRE2_NO_JIT, data.get(), nullptr);
    }
    if (count == PCRE2_ERROR_NOMATCH) break;
    if (count < 0) {
      throw DataError(str_cat(state_->place, ": the regular expression failed at byte ", from, " of a text of ",
                              text.size(), " bytes: ", pcre2_message(count), ". Cut the text into shorter documents"));
    }
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(data.get());
    const size_t begin = range[0], end = range[1];
    if (begin > done) result.push_back({done, begin, false});
    if (end > begin) result.push_back({begin, end, true});
    done = end;
    from = end;
    if (end == begin) {  // an empty match: go on behind the next character
      ++from;
      while (from < text.size() && (static_cast<unsigned char>(text[from]) & 0xc0) == 0x80) ++from;
    }
  }
  if (done < text.size()) result.push_back({done, text.size(), false});
  return result;
}

}  // namespace megatron
