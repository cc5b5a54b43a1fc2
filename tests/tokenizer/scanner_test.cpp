// The hand-written scanners against their regular expressions run by PCRE2, and the pieces around them.
#include <random>

#include "base/error.h"
#include "tests/catch.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/regex.h"
#include "tokenizer/scanner.h"
#include "tokenizer/unicode.h"

namespace megatron {
namespace {

using Pieces_ = std::vector<std::string>;

Pieces_ scan(ScannerKind kind, std::string_view text) {
  Pieces_ pieces;
  const char* end = text.data() + text.size();
  for (const char* p = text.data(); p < end;) {
    const char* stop = scanner(kind)(p, end);
    pieces.emplace_back(p, static_cast<size_t>(stop - p));
    p = stop;
  }
  return pieces;
}

Pieces_ match(const Regex& regex, std::string_view text) {
  Pieces_ pieces;
  for (const Span& span : regex.spans(text)) pieces.emplace_back(text.substr(span.begin, span.end - span.begin));
  return pieces;
}

constexpr ScannerKind kKinds[] = {ScannerKind::kGpt2, ScannerKind::kLlama3, ScannerKind::kQwen2};

/// Characters that the patterns treat in all their different ways, and now and then any other one.
std::string random_text(std::mt19937& random) {
  static const std::vector<std::string> kParts = {"a",
                                                  "Z",
                                                  "\xc3\xa9",
                                                  "'",
                                                  "s",
                                                  "S",
                                                  "t",
                                                  "re",
                                                  "LL",
                                                  "ve",
                                                  "m",
                                                  "D",
                                                  "\xc5\xbf",
                                                  "7",
                                                  "1",
                                                  "\xc2\xbd",
                                                  " ",
                                                  " ",
                                                  "\n",
                                                  "\r",
                                                  "\t",
                                                  "\xc2\xa0",
                                                  "\xe3\x80\x80",
                                                  "\xc2\x85",
                                                  "\x1c",
                                                  "!",
                                                  ".",
                                                  "\xe6\x98\xa5",
                                                  "\xf0\x9f\x99\x82",
                                                  "\xcc\x81",
                                                  "\xe1\xa0\x8e"};
  std::string text;
  const size_t count = random() % 24;
  for (size_t i = 0; i < count; ++i) {
    if (random() % 16 != 0) {
      text += kParts[random() % kParts.size()];
    } else {
      append_utf8(text, static_cast<uint32_t>(0x80 + random() % 0x700));
    }
  }
  return text;
}

TEST_CASE("scanners cut like their regular expressions") {
  std::mt19937 random(7);
  for (ScannerKind kind : kKinds) {
    const Regex regex(std::string(scanner_pattern(kind)), "test");
    for (int i = 0; i < 20000; ++i) {
      const std::string text = random_text(random);
      const Pieces_ ours = scan(kind, text), theirs = match(regex, text);
      INFO(scanner_pattern(kind) << " on " << text);
      REQUIRE(ours == theirs);
    }
  }
}

TEST_CASE("character classes agree with PCRE2 for characters that its Unicode knows") {
  const Regex unassigned("\\p{Cn}", "test"), letter("\\p{L}", "test"), number("\\p{N}", "test"), space("\\s", "test");
  const auto matches = [](const Regex& regex, const std::string& text) { return regex.spans(text)[0].matched; };
  for (uint32_t c = 0; c < 0x32000; ++c) {
    if (c >= 0xd800 && c <= 0xdfff) continue;
    std::string text;
    append_utf8(text, c);
    if (matches(unassigned, text)) continue;
    INFO("code point " << c);
    REQUIRE(((char_class(c) & kLetter) != 0) == matches(letter, text));
    REQUIRE(((char_class(c) & kNumber) != 0) == matches(number, text));
    REQUIRE(((char_class(c) & kSpace) != 0) == matches(space, text));
  }
}

TEST_CASE("scanners take every byte, UTF-8 or not, and move on") {
  std::mt19937 random(11);
  for (ScannerKind kind : kKinds) {
    for (int i = 0; i < 5000; ++i) {
      std::string text(random() % 40, '\0');
      for (char& c : text) c = static_cast<char>(random() % 3 == 0 ? " \n'sa1"[random() % 6] : random());
      std::string joined;
      for (const std::string& piece : scan(kind, text)) {
        REQUIRE(!piece.empty());
        joined += piece;
      }
      REQUIRE(joined == text);
    }
  }
  CHECK(scan(ScannerKind::kGpt2, "a\xff\xfe b") == Pieces_{"a", "\xff\xfe", " b"});
}

TEST_CASE("decode_utf8 refuses what is not well-formed") {
  for (const std::string bad : {"\x80", "\xc0\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf",
                                "\xf4\x90\x80\x80", "\xf5", "\xc3", "\xe2\x82", "\xf0\x9f\x99"}) {
    INFO(bad.size() << " bytes, first " << int(static_cast<uint8_t>(bad[0])));
    const CodePoint c = decode_utf8(bad.data(), bad.data() + bad.size());
    CHECK(c.value == kInvalidCodePoint);
    CHECK(c.length == 1);
  }
  for (uint32_t c = 0; c < 0x110000; c += c < 0x3000 ? 1 : 97) {
    if (c >= 0xd800 && c <= 0xdfff) continue;
    std::string text;
    append_utf8(text, c);
    const CodePoint read = decode_utf8(text.data(), text.data() + text.size());
    REQUIRE(read.value == c);
    REQUIRE(read.length == text.size());
  }
}

TEST_CASE("regular expressions that mean something else elsewhere are refused") {
  for (const std::string pattern :
       {"\\h+", "[a&&b]", "[a[b]]", "\\p{N}{1,3}+", "(?m:.)", "(?im).", "\\Aa", "[]a]", "\\Qa"}) {
    INFO(pattern);
    CHECK_THROWS_AS(Regex(pattern, "file"), DataError);
  }
  CHECK_THROWS_WITH(Regex("(a", "file.json: /x"), Catch::Matchers::StartsWith("file.json: /x: the regular expression"));
  for (const std::string pattern : {"\\p{L}+", "(?i:m)", "a++", "[\\[a]", "[^\\s\\S]?"})
    CHECK_NOTHROW(Regex(pattern, "file"));
}

TEST_CASE("long runs take linear time and no stack") {
  const size_t size = size_t{1} << 20;
  for (ScannerKind kind : kKinds) {
    const Regex regex(std::string(scanner_pattern(kind)), "test");
    for (const char c : {'a', ' ', '\n', '.', '1'}) {
      const std::string text = std::string(size, c) + "x";
      CHECK(scan(kind, text) == match(regex, text));
    }
  }
}

TEST_CASE("NFC") {
  CHECK(normalize_nfc("e\xcc\x81") == "\xc3\xa9");
  CHECK(normalize_nfc("\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8") == "\xea\xb0\x81");  // Hangul
  CHECK(normalize_nfc("a\xcc\x81\xcc\xa7") == "\xc3\xa1\xcc\xa7");                 // reordered, then composed
  CHECK(normalize_nfc("\xe2\x84\xab") == "\xc3\x85");                              // a singleton
  CHECK(normalize_nfc("e\xff\xcc\x81") == "e\xff\xcc\x81");                        // nothing composes across bytes
  CHECK(normalize_nfc("\xe0\xa5\x98") == "\xe0\xa4\x95\xe0\xa4\xbc");              // excluded from composition
}

}  // namespace
}  // namespace megatron
