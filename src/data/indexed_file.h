// Megatron-LM's indexed token files: `<prefix>.bin` holds the tokens of all sequences back to back, `<prefix>.idx` says
// where they begin. All integers are little-endian, without alignment:
//
//   offset       type     field
//   0            9 bytes  "MMIDIDX" and two zero bytes
//   9            u64      version, 1
//   17           u8       type of a token (TokenDtype)
//   18           u64      S, number of sequences
//   26           u64      D, number of documents + 1
//   34           i32[S]   length of each sequence in tokens
//   34 + 4 S     i64[S]   where each sequence begins in .bin, in bytes: the sum of all lengths before it
//   34 + 12 S    i64[D]   first sequence of each document; the last entry is S
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "data/data_meta.h"
#include "data/files.h"
#include "tokenizer/tokenizer.h"

namespace megatron {

inline constexpr int64_t kIndexHeaderBytes = 34;

/// The codes of the format.
enum class TokenDtype : uint8_t { kU8 = 1, kI8 = 2, kI16 = 3, kI32 = 4, kI64 = 5, kF64 = 6, kF32 = 7, kU16 = 8 };

int64_t dtype_bytes(TokenDtype dtype);
const char* dtype_name(TokenDtype dtype);

/// u16 when vocab_size < 65500, else i32: the smallest type that Megatron-LM itself would choose.
TokenDtype dtype_for_vocab(int64_t vocab_size);

std::string bin_path(const std::string& prefix);
std::string idx_path(const std::string& prefix);

/// Reads one pair of files, mapped into memory. Thread-safe. Opening checks the whole index: header, sizes against the
/// sizes of both files, pointers against lengths, documents ascending; DataError names file, place and remedy.
/// "Position" is the number of a token counted from the first of the file.
class IndexedFile {
 public:
  /// `prefix`: path without .bin or .idx.
  explicit IndexedFile(const std::string& prefix);

  const std::string& prefix() const { return prefix_; }
  TokenDtype dtype() const { return dtype_; }
  int64_t sequences() const { return sequences_; }
  int64_t documents() const { return documents_; }
  int64_t tokens() const { return tokens_; }

  int64_t sequence_length(int64_t sequence) const;
  /// Position of the first token of a sequence; `sequences()` gives `tokens()`.
  int64_t sequence_begin(int64_t sequence) const;
  /// First sequence of a document; `documents()` gives `sequences()`.
  int64_t document_begin(int64_t document) const;
  /// The document that holds the token at `position`. O(log).
  int64_t document_of(int64_t position) const;

  /// Copies out.size() tokens from `position` on, across sequences. DataError when an id doesn't fit TokenId.
  void read(int64_t position, std::span<TokenId> out) const;

  /// Raw bytes of .bin, for copies and hashes.
  std::span<const unsigned char> bin_bytes() const;
  std::span<const unsigned char> idx_bytes() const;

  const std::optional<DataMeta>& meta() const { return meta_; }

  /// Throws DataError when the side file says that another tokenizer made this data, or when its greatest id is outside
  /// the vocabulary. Without side file nothing can be said here: check ids with check_ids as they are read.
  void check_tokenizer(const Tokenizer& tokenizer) const;

  /// Throws DataError naming document and position when an id of `ids`, read from `position` on, is outside
  /// [0, vocab_size).
  void check_ids(int64_t position, std::span<const TokenId> ids, int64_t vocab_size) const;

 private:
  void check_header();
  void check_sequences();
  void check_documents() const;
  void check_meta() const;

  std::string prefix_;
  std::unique_ptr<MappedFile> idx_, bin_;
  TokenDtype dtype_ = TokenDtype::kU16;
  int64_t sequences_ = 0, documents_ = 0, tokens_ = 0;
  std::optional<DataMeta> meta_;
};

}  // namespace megatron
