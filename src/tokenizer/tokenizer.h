// What the rest of the program needs of a tokenizer. Text is UTF-8 bytes in, token ids out, and back.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace megatron {

using TokenId = int32_t;

/// Thread-safe after construction: several threads may encode at once.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// Ids of `text`, without any begin or end token. Special tokens that stand in the text get their id. Bytes that are
  /// not UTF-8 are kept: decode(encode(text)) is `text`, whatever it holds, unless the tokenizer normalises.
  virtual std::vector<TokenId> encode(std::string_view text) const = 0;

  /// The same with what the tokenizer's own post-processor puts around a text (for example a begin token).
  virtual std::vector<TokenId> encode_with_special_tokens(std::string_view text) const { return encode(text); }

  /// Bytes of one token, as they are joined by decode(): may be part of a UTF-8 character. Special tokens give their
  /// text.
  virtual std::string token_bytes(TokenId id) const = 0;

  /// Text of `ids`; ids outside [0, vocab_size()) throw DataError.
  virtual std::string decode(const std::vector<TokenId>& ids) const;

  /// True number of ids (not padded): every id is < vocab_size().
  virtual int64_t vocab_size() const = 0;

  /// End-of-document id, where the tokenizer has one.
  virtual std::optional<TokenId> eod() const = 0;
  virtual std::optional<TokenId> pad() const { return std::nullopt; }

  /// Hash of everything that decides ids (vocabulary, merges, pre-tokenizer, special tokens): stored beside data and
  /// checkpoints, compared when they are opened.
  virtual uint64_t fingerprint() const = 0;
};

/// Where a tokenizer comes from; the fields are the keys of section `data`.
struct TokenizerSpec {
  std::string tokenizer_type;   ///< one of tokenizer_types()
  std::string tokenizer_model;  ///< tokenizer.json or a SentencePiece model, or a folder that holds it
  std::string vocab_file;       ///< GPT2BPETokenizer: vocab.json
  std::string merge_file;       ///< GPT2BPETokenizer: merges.txt
  int64_t vocab_size = 0;       ///< NullTokenizer: number of ids without the end-of-document id
};

/// The names that tokenizer_type may have.
const std::vector<std::string>& tokenizer_types();
/// SentencePieceTokenizer, GPTSentencePieceTokenizer, Llama2Tokenizer: what reads SentencePiece models.
bool is_sentencepiece_type(const std::string& type);
inline constexpr char kSentencePieceName[] = "tokenizer.model";  ///< its usual name

/// Builds the tokenizer; UsageError for an unknown type or a missing field, DataError names the file and the remedy
/// when it can't be read.
std::unique_ptr<Tokenizer> make_tokenizer(const TokenizerSpec& spec);

}  // namespace megatron
