#include "tokenizer/stream_decoder.h"

#include <cstdint>

#include "tokenizer/unicode.h"

namespace megatron {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";

/// Length of the longest beginning of a well-formed character at the front of `bytes`, where there is no whole one.
size_t partial_length(std::string_view bytes) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(bytes[i]); };
  const uint8_t first = byte(0);
  if (first < 0xc2 || first > 0xf4) return 0;
  const size_t whole = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  size_t length = 1;
  while (length < whole && length < bytes.size()) {
    uint8_t low = 0x80, high = 0xbf;
    if (length == 1) {  // overlong forms, surrogates and values above U+10FFFF show in the second byte
      if (first == 0xe0) low = 0xa0;
      if (first == 0xed) high = 0x9f;
      if (first == 0xf0) low = 0x90;
      if (first == 0xf4) high = 0x8f;
    }
    if (byte(length) < low || byte(length) > high) break;
    ++length;
  }
  return length;
}

/// Moves all that is certain from `bytes` to the result; what stays is the beginning of a character.
std::string take_whole(std::string& bytes, bool at_end) {
  std::string text;
  size_t at = 0;
  while (at < bytes.size()) {
    const std::string_view rest = std::string_view(bytes).substr(at);
    const CodePoint c = decode_utf8(rest.data(), rest.data() + rest.size());
    if (c.value != kInvalidCodePoint) {
      text += rest.substr(0, c.length);
      at += c.length;
      continue;
    }
    const size_t partial = partial_length(rest);
    if (partial == rest.size() && !at_end) break;
    text += kReplacement;
    at += partial == 0 ? 1 : partial;
  }
  bytes.erase(0, at);
  return text;
}

}  // namespace

std::string StreamDecoder::push(TokenId id) {
  pending_ += tokenizer_.token_bytes(id);
  return take_whole(pending_, false);
}

std::string StreamDecoder::finish() {
  return take_whole(pending_, true);
}

std::string valid_utf8(std::string_view bytes) {
  std::string copy(bytes);
  return take_whole(copy, true);
}

}  // namespace megatron
