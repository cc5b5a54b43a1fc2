// Tokenizers without a vocabulary file.
#pragma once

#include "tokenizer/tokenizer.h"

namespace megatron {

/// Ids 0 to 255 are bytes, 256 is the end of a document. No text is special.
class ByteTokenizer : public Tokenizer {
 public:
  std::vector<TokenId> encode(std::string_view text) const override;
  std::string token_bytes(TokenId id) const override;
  int64_t vocab_size() const override { return 257; }
  std::optional<TokenId> eod() const override { return 256; }
  uint64_t fingerprint() const override;
};

/// Text is ids in decimal, with white space between them; the id behind the last one is the end of a document.
class NullTokenizer : public Tokenizer {
 public:
  explicit NullTokenizer(int64_t ids);
  /// DataError names the word that is no id in [0, ids].
  std::vector<TokenId> encode(std::string_view text) const override;
  /// The number with a space behind it; decode() leaves the last space out.
  std::string token_bytes(TokenId id) const override;
  std::string decode(const std::vector<TokenId>& ids) const override;
  int64_t vocab_size() const override { return ids_ + 1; }
  std::optional<TokenId> eod() const override { return static_cast<TokenId>(ids_); }
  uint64_t fingerprint() const override;

 private:
  int64_t ids_;
};

}  // namespace megatron
