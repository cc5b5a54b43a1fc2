// Turns ids that arrive one by one into text that a terminal can show.
#pragma once

#include <string>
#include <string_view>

#include "tokenizer/tokenizer.h"

namespace megatron {

/// Emits only whole UTF-8 characters: bytes of one that is not complete yet wait for the next id. Bytes that can't
/// become a character are replaced by U+FFFD, one for each longest beginning of a character (Unicode 16, section 3.9),
/// so the output is always valid UTF-8. The tokenizer must outlive it.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  /// The text that is certain after this id; often empty in the middle of a character. DataError: no such id.
  std::string push(TokenId id);
  /// What is left at the end, which is nothing or one U+FFFD. The decoder can be used again.
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  std::string pending_;  ///< the beginning of one character, at most 3 bytes
};

/// Replaces what is not UTF-8 by U+FFFD in the same way.
std::string valid_utf8(std::string_view bytes);

}  // namespace megatron
