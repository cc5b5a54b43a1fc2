// How SentencePiece rewrites a text before it looks for pieces.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/prefix_index.h"
#include "tokenizer/sentencepiece_model.h"

namespace megatron {

/// The table "precompiled_charsmap" of a model: a trie of what is replaced, and the texts that replace it. The trie is
/// a double array as the library Darts-clone lays it out: 32-bit units, each with a label, an offset to its children,
/// and whether one of them holds a value.
class CharsMap {
 public:
  CharsMap() = default;
  /// DataError when the sizes contradict each other.
  CharsMap(const std::string& bytes, const std::string& path);

  /// The longest beginning of `text` that is replaced: its length, or 0, and by what.
  size_t find(std::string_view text, std::string_view& replacement) const;

 private:
  std::string path_;
  std::vector<uint32_t> units_;
  std::string replacements_;  ///< each ends with a zero
};

/// Thread-safe after construction.
class SentencePieceNormalizer {
 public:
  /// `protected_pieces` (user-defined symbols) stay as they are.
  SentencePieceNormalizer(const SentencePieceDefinition& definition, PrefixIndex protected_pieces);

  /// `first`: the text stands at the beginning of what is encoded. Bytes that are not UTF-8 stay.
  std::string normalize(std::string_view text, bool first = true) const;

 private:
  /// The next bit of the text as it is to be, and how many bytes it stands for.
  std::string_view step(std::string_view text, size_t& consumed) const;
  void append(std::string& out, std::string_view text) const;

  DummyPrefix dummy_prefix_;
  bool suffix_instead_, collapse_spaces_, mark_spaces_, skip_prefix_before_mark_;
  CharsMap charsmap_;
  PrefixIndex protected_;
};

}  // namespace megatron
