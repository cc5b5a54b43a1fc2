#include "tokenizer/scanner.h"

#include "tokenizer/unicode.h"

namespace megatron {
namespace {

constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr uint8_t kKinds = kLetter | kNumber | kSpace;

/// A cursor over characters of known class.
class Cursor {
 public:
  Cursor(const char* p, const char* end) : classes_(char_classes()), p_(p), end_(end) { look(); }

  const char* place() const { return p_; }
  bool at_end() const { return p_ == end_; }
  uint8_t kind() const { return kind_; }  ///< kLetter, kNumber, kSpace or 0; at the end 0xff
  char byte() const { return *p_; }
  bool at_newline() const { return p_ < end_ && (*p_ == '\n' || *p_ == '\r'); }

  void step() {
    p_ += length_;
    look();
  }
  void skip_kind(uint8_t kind) {
    while (kind_ == kind) step();
  }

 private:
  void look() {
    if (p_ == end_) {
      kind_ = 0xff;
      return;
    }
    const auto first = static_cast<unsigned char>(*p_);
    if (first < 0x80) {
      length_ = 1;
      kind_ = classes_[first] & kKinds;
      return;
    }
    const CodePoint c = decode_utf8(p_, end_);
    length_ = c.length;
    kind_ = c.value == kInvalidCodePoint ? uint8_t{0} : static_cast<uint8_t>(classes_[c.value] & kKinds);
  }

  const uint8_t* classes_;
  const char* p_;
  const char* end_;
  uint32_t length_ = 0;
  uint8_t kind_ = 0xff;
};

/// End of 's 't 're 've 'm 'll 'd at p (which holds the apostrophe), or null.
template <bool kAnyCase>
const char* contraction_end(const char* p, const char* end) {
  const auto at = [&](int i) -> char {
    if (end - p <= i) return '\0';
    const char c = p[i];
    return kAnyCase && c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  };
  const char first = at(1), second = at(2);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return p + 2;
  if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l'))
    return p + 3;
  // U+017F, the long s, is a lower-case s when case does not count.
  if (kAnyCase && first == '\xc5' && second == '\xbf') return p + 3;
  return nullptr;
}

/// \s+(?!\S)|\s+ : a run of white space keeps its last character for the word behind it, unless that is all it has.
/// With newlines, \s*[\r\n]+ goes before: up to the last newline of the run.
template <bool kNewlines>
const char* space_end(const char* p, const char* end) {
  Cursor cursor(p, end);
  const char* last = p;
  const char* newline = nullptr;
  while (cursor.kind() == kSpace) {
    last = cursor.place();
    const bool is_newline = cursor.at_newline();
    cursor.step();
    if (is_newline) newline = cursor.place();
  }
  if (kNewlines && newline != nullptr) return newline;
  return cursor.at_end() || last == p ? cursor.place() : last;
}

const char* gpt2_piece(const char* p, const char* end) {
  if (*p == '\'') {
    if (const char* stop = contraction_end<false>(p, end)) return stop;
  }
  Cursor cursor(p, end);
  if (*p == ' ') cursor.step();
  const uint8_t kind = cursor.kind();
  if (kind == kSpace || cursor.at_end()) return space_end<false>(p, end);
  cursor.skip_kind(kind);
  return cursor.place();
}

template <int kDigits>
const char* llama3_piece(const char* p, const char* end) {
  if (*p == '\'') {
    if (const char* stop = contraction_end<true>(p, end)) return stop;
  }
  Cursor cursor(p, end);
  const uint8_t kind = cursor.kind();
  if (kind == kLetter) {
    cursor.skip_kind(kLetter);
    return cursor.place();
  }
  if (kind == kNumber) {
    for (int i = 0; i < kDigits && cursor.kind() == kNumber; ++i) cursor.step();
    return cursor.place();
  }
  if (*p != '\r' && *p != '\n') {  // one sign or space goes with the word behind it
    Cursor next = cursor;
    next.step();
    if (next.kind() == kLetter) {
      next.skip_kind(kLetter);
      return next.place();
    }
    if (kind == 0 || (*p == ' ' && next.kind() == 0)) {
      next.skip_kind(0);
      const char* stop = next.place();
      while (stop < end && (*stop == '\n' || *stop == '\r')) ++stop;
      return stop;
    }
  }
  return space_end<true>(p, end);
}

}  // namespace

std::string_view scanner_pattern(ScannerKind kind) {
  switch (kind) {
    case ScannerKind::kGpt2:
      return kGpt2Pattern;
    case ScannerKind::kLlama3:
      return kLlama3Pattern;
    case ScannerKind::kQwen2:
      return kQwen2Pattern;
  }
  return {};
}

std::optional<ScannerKind> scanner_for_pattern(std::string_view pattern) {
  for (ScannerKind kind : {ScannerKind::kGpt2, ScannerKind::kLlama3, ScannerKind::kQwen2}) {
    if (pattern == scanner_pattern(kind)) return kind;
  }
  return std::nullopt;
}

Scanner scanner(ScannerKind kind) {
  switch (kind) {
    case ScannerKind::kGpt2:
      return gpt2_piece;
    case ScannerKind::kLlama3:
      return llama3_piece<3>;
    case ScannerKind::kQwen2:
      return llama3_piece<1>;
  }
  return nullptr;
}

}  // namespace megatron
