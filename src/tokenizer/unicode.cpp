#include "tokenizer/unicode.h"

#include <array>
#include <vector>

#include "tokenizer/unicode_tables.h"

namespace megatron {
namespace {

struct ByteAlphabet {
  std::array<uint32_t, 256> char_of;
  std::array<int, 512> byte_of;  ///< -1: stands for no byte

  ByteAlphabet() {
    byte_of.fill(-1);
    uint32_t next = 256;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte != 0xad);
      char_of[byte] = printable ? byte : next++;
      byte_of[char_of[byte]] = static_cast<int>(byte);
    }
  }
};

const ByteAlphabet& byte_alphabet() {
  static const ByteAlphabet alphabet;
  return alphabet;
}

}  // namespace

CodePoint decode_utf8(const char* p, const char* end) {
  const auto byte = [p](int i) { return static_cast<uint32_t>(static_cast<unsigned char>(p[i])); };
  const auto continues = [&](int i) { return (byte(i) & 0xc0u) == 0x80u; };
  const uint32_t first = byte(0);
  const auto left = end - p;
  if (first < 0x80) return {first, 1};
  if (first >= 0xc2 && first < 0xe0 && left >= 2 && continues(1)) {
    return {((first & 0x1fu) << 6) | (byte(1) & 0x3fu), 2};
  }
  if (first >= 0xe0 && first < 0xf0 && left >= 3 && continues(1) && continues(2)) {
    const uint32_t value = ((first & 0xfu) << 12) | ((byte(1) & 0x3fu) << 6) | (byte(2) & 0x3fu);
    if (value >= 0x800 && (value < 0xd800 || value > 0xdfff)) return {value, 3};
  }
  if (first >= 0xf0 && first < 0xf5 && left >= 4 && continues(1) && continues(2) && continues(3)) {
    const uint32_t value =
        ((first & 7u) << 18) | ((byte(1) & 0x3fu) << 12) | ((byte(2) & 0x3fu) << 6) | (byte(3) & 0x3fu);
    if (value >= 0x10000 && value < 0x110000) return {value, 4};
  }
  return {kInvalidCodePoint, 1};
}

void append_utf8(std::string& text, uint32_t c) {
  const auto put = [&text](uint32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xc0 | (c >> 6));
    put(0x80 | (c & 0x3f));
  } else if (c < 0x10000) {
    put(0xe0 | (c >> 12));
    put(0x80 | ((c >> 6) & 0x3f));
    put(0x80 | (c & 0x3f));
  } else {
    put(0xf0 | (c >> 18));
    put(0x80 | ((c >> 12) & 0x3f));
    put(0x80 | ((c >> 6) & 0x3f));
    put(0x80 | (c & 0x3f));
  }
}

bool is_ascii(std::string_view text) {
  unsigned char bits = 0;
  for (char c : text) bits = static_cast<unsigned char>(bits | static_cast<unsigned char>(c));
  return bits < 0x80;
}

const uint8_t* char_classes() {
  static const std::vector<uint8_t> classes = [] {
    std::vector<uint8_t> result(0x110000, 0);
    for (const UnicodeRange& range : class_ranges()) {
      for (uint32_t c = range.first; c <= range.last; ++c) result[c] = static_cast<uint8_t>(range.value);
    }
    return result;
  }();
  return classes.data();
}

uint32_t byte_level_char(uint8_t byte) {
  return byte_alphabet().char_of[byte];
}

bool byte_level_decode(std::string_view token, std::string& bytes) {
  bytes.clear();
  const char* end = token.data() + token.size();
  for (const char* p = token.data(); p < end;) {
    const CodePoint c = decode_utf8(p, end);
    if (c.value >= 512 || byte_alphabet().byte_of[c.value] < 0) return false;
    bytes.push_back(static_cast<char>(byte_alphabet().byte_of[c.value]));
    p += c.length;
  }
  return true;
}

std::string byte_level_encode(std::string_view bytes) {
  std::string text;
  for (char c : bytes) append_utf8(text, byte_level_char(static_cast<uint8_t>(c)));
  return text;
}

}  // namespace megatron
