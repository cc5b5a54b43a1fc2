// SentencePiece: byte-pair merges by score, or the likeliest cut by a unigram model.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizer/flat_map.h"
#include "tokenizer/prefix_index.h"
#include "tokenizer/sentencepiece_model.h"
#include "tokenizer/sentencepiece_normalizer.h"
#include "tokenizer/tokenizer.h"

namespace megatron {

/// The ids are those of the library sentencepiece, or of `tokenizers` for a tokenizer.json. Control pieces ("<s>") in a
/// text are ordinary text for a model file and found for a tokenizer.json, as those libraries have it. Bytes that are
/// not UTF-8 become byte pieces where there are any, so that decoding gives them back.
class SentencePieceTokenizer : public Tokenizer {
 public:
  explicit SentencePieceTokenizer(SentencePieceDefinition definition);

  std::vector<TokenId> encode(std::string_view text) const override;
  std::vector<TokenId> encode_with_special_tokens(std::string_view text) const override;
  /// Space marks are spaces; the one that every text begins with is among them (decode() takes it away).
  std::string token_bytes(TokenId id) const override;
  std::string decode(const std::vector<TokenId>& ids) const override;
  int64_t vocab_size() const override { return std::ssize(d_.pieces); }
  std::optional<TokenId> eod() const override { return d_.end; }
  std::optional<TokenId> pad() const override { return d_.pad; }
  uint64_t fingerprint() const override { return fingerprint_; }

 private:
  struct Cut {  ///< a stretch of the normalised text and its piece, -1: none
    std::string_view text;
    TokenId id;
  };
  void encode_segment(std::string_view text, bool first, std::vector<TokenId>& out) const;
  void encode_normalized(std::string_view text, std::vector<TokenId>& out) const;
  struct Symbol {  ///< a link in the chain of cuts that merges shorten
    Cut cut;
    int32_t before, behind;
    bool fixed;  ///< user-defined: not merged
  };
  std::vector<Symbol> characters(std::string_view text) const;
  void merge(std::string_view text, std::vector<Cut>& cuts) const;
  void cut_likeliest(std::string_view text, std::vector<Cut>& cuts) const;
  void append(const std::vector<Cut>& cuts, std::vector<TokenId>& out) const;
  TokenId find(std::string_view text) const;

  struct Pair {
    TokenId result;
    float score;
  };
  bool find_pair(const Cut& left, const Cut& right, Pair& pair) const;

  SentencePieceDefinition d_;
  uint64_t fingerprint_;
  std::unordered_map<std::string_view, TokenId> ids_;  ///< of pieces that text can become
  FlatMap<int32_t> ranks_;                             ///< of pairs, when by_rank
  PrefixIndex user_defined_, all_;
  SentencePieceNormalizer normalizer_;
  AddedTokenMatcher added_raw_, added_normalized_;
  std::array<TokenId, 256> bytes_{};
  float unknown_score_ = 0, most_score_ = 0;
  bool cut_at_marks_ = false;  ///< no piece holds a space mark behind another character
};

}  // namespace megatron
