// The part of Unicode that tokenizers need: UTF-8, four character classes, and normalisation form C.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace megatron {

/// One step of reading UTF-8. A byte that is not part of a well-formed sequence (RFC 3629: no surrogates, no overlong
/// forms, nothing above U+10FFFF) is a step of its own, with value kInvalidCodePoint and length 1.
struct CodePoint {
  uint32_t value;
  uint32_t length;  ///< bytes, 1 to 4
};
constexpr uint32_t kInvalidCodePoint = 0xffffffffu;

/// Reads at p; needs p < end.
CodePoint decode_utf8(const char* p, const char* end);
void append_utf8(std::string& text, uint32_t code_point);
bool is_ascii(std::string_view text);

/// Bits of a character's class. An invalid byte has none of them.
enum CharClass : uint8_t {
  kLetter = 1,  ///< \p{L}
  kNumber = 2,  ///< \p{N}
  kSpace = 4,   ///< \s, the property White_Space
  kWord = 8,    ///< \w
};

/// Class bits of all code points below 0x110000, Unicode 16. Built at the first call.
const uint8_t* char_classes();
inline uint8_t char_class(uint32_t code_point) {
  return code_point == kInvalidCodePoint ? uint8_t{0} : char_classes()[code_point];
}

/// Normalisation form C (Unicode standard annex 15) with the data of Unicode 9, as Hugging Face's `tokenizers` has it.
/// Invalid bytes stay as they are, and nothing composes across them.
std::string normalize_nfc(std::string_view text);

/// The letters in which byte-level vocabularies are written: every byte is a printable character below U+0144. Bytes
/// that are printable in Latin-1 stand for themselves, the others follow from U+0100 on, in order.
uint32_t byte_level_char(uint8_t byte);
/// Bytes of a token written so; false when it has a character that stands for no byte.
bool byte_level_decode(std::string_view token, std::string& bytes);
std::string byte_level_encode(std::string_view bytes);

}  // namespace megatron
