// Byte-level byte-pair encoding, as GPT-2 introduced it: normalise, cut at added tokens, cut into pieces, merge.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe_model.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer.h"

namespace megatron {

/// All that decides what a byte-level BPE tokenizer does; filled by the readers of its file formats, which check it.
struct BpeDefinition {
  std::string source;               ///< file name, for messages
  std::vector<std::string> tokens;  ///< bytes by id; empty: no such token
  std::vector<bool> mergeable;      ///< by id: part of the merge vocabulary
  std::vector<Merge> merges;        ///< by rank
  BpeOptions options;
  std::vector<AddedToken> added;
  std::vector<PreTokenizerStep> steps;
  bool nfc = false;
  std::vector<TokenId> prefix, suffix;  ///< what the post-processor puts around a text
  std::optional<TokenId> eod, pad;
};

class BpeTokenizer : public Tokenizer {
 public:
  explicit BpeTokenizer(BpeDefinition definition);
  ~BpeTokenizer() override;

  std::vector<TokenId> encode(std::string_view text) const override;
  std::vector<TokenId> encode_with_special_tokens(std::string_view text) const override;
  std::string token_bytes(TokenId id) const override;
  int64_t vocab_size() const override { return static_cast<int64_t>(tokens_.size()); }
  std::optional<TokenId> eod() const override { return eod_; }
  std::optional<TokenId> pad() const override { return pad_; }
  uint64_t fingerprint() const override { return fingerprint_; }

 private:
  void encode_into(std::string_view text, std::vector<TokenId>& out) const;
  void encode_normalized(std::string_view text, WordCache& cache, std::vector<TokenId>& out) const;
  void encode_pieces(std::string_view text, WordCache& cache, std::vector<TokenId>& out) const;
  std::unique_ptr<WordCache> take_cache() const;
  void give_cache(std::unique_ptr<WordCache> cache) const;

  std::string source_;
  std::vector<std::string> tokens_;
  std::vector<TokenId> prefix_, suffix_;
  std::optional<TokenId> eod_, pad_;
  bool nfc_;
  uint64_t fingerprint_;
  BpeModel model_;
  AddedTokenMatcher added_raw_, added_normalized_;
  PreTokenizer pre_tokenizer_;
  Scanner scanner_;
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<WordCache>> caches_;  ///< one for each thread that is not encoding now
};

}  // namespace megatron
