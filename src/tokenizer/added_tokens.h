// Tokens that stand outside the merges: they are found in the text before anything else happens to it.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/flat_map.h"
#include "tokenizer/tokenizer.h"

namespace megatron {

/// An entry of `added_tokens` in a tokenizer.json.
struct AddedToken {
  TokenId id = 0;
  std::string content;
  bool special = false;
  bool single_word = false;  ///< found only where no word character touches it
  bool lstrip = false;       ///< swallows the white space before it
  bool rstrip = false;       ///< and behind it
  bool normalized = false;   ///< looked for in the normalised text
};

/// A stretch of text: an added token, or text (id -1).
struct TextSegment {
  std::string_view text;
  TokenId id;
};

/// Finds added tokens: leftmost first, among those the longest. Thread-safe after construction.
class AddedTokenMatcher {
 public:
  AddedTokenMatcher() = default;
  explicit AddedTokenMatcher(std::vector<AddedToken> tokens);

  bool empty() const { return tokens_.empty(); }
  /// Appends the segments of `text` in order; there are no empty text segments.
  void split(std::string_view text, std::vector<TextSegment>& out) const;

 private:
  struct Match {
    size_t begin = 0, end = 0;
    const AddedToken* token = nullptr;
  };
  Match find(std::string_view text, size_t from) const;

  std::vector<AddedToken> tokens_;
  FlatMap<int32_t> edges_;       ///< (node, byte) -> node
  std::vector<int32_t> ending_;  ///< by node: index of the token that ends there, or -1
  std::array<bool, 256> starts_{};
};

}  // namespace megatron
