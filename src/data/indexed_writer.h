// Writes indexed token files in bounded memory: tokens, lengths and document borders go to disk as they come.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "data/data_meta.h"
#include "data/files.h"
#include "data/indexed_file.h"

namespace megatron {

/// Packs ids as the type `dtype` (kU16, kI32, ...) needs them in .bin, appending to `bytes`.
void pack_tokens(std::span<const TokenId> ids, TokenDtype dtype, std::string& bytes);

/// Builds `<prefix>.bin`, `<prefix>.idx` and, when the tokenizer is known, `<prefix>.meta.json`. Everything is written
/// under temporary names; finish() makes it durable and renames, the index last, so that a pair of files under the
/// final names is always complete. Without finish() nothing is left behind. The bytes are those Megatron-LM's own
/// builder writes for the same documents.
class IndexedWriter {
 public:
  IndexedWriter(const std::string& prefix, TokenDtype dtype);

  /// Adds tokens to the open sequence.
  void append(std::span<const TokenId> ids);
  /// The same for tokens that pack_tokens() packed with this writer's type; `max_id` is the greatest of them.
  void append_packed(std::span<const char> bytes, TokenId max_id);

  /// Closes the open sequence, which may be empty. DataError when it is longer than the format's i32 can say.
  void end_sequence();
  /// Ends a document at the last closed sequence. A document without sequences is allowed.
  void end_document();

  /// Copies all sequences and documents of `other`, which must have this writer's type.
  void append_file(const IndexedFile& other);

  /// `tokenizer`: what made the ids; nullopt when it isn't known (then no side file is written, and an old one of that
  /// name is removed).
  void finish(const std::optional<TokenizerIdentity>& tokenizer);

  int64_t open_tokens() const { return open_tokens_; }  ///< tokens in the open sequence
  int64_t tokens() const { return tokens_; }
  int64_t sequences() const { return sequences_; }
  int64_t documents() const { return documents_; }
  TokenDtype dtype() const { return dtype_; }
  const std::string& prefix() const { return prefix_; }

 private:
  void add_bytes(const void* data, int64_t bytes);
  void write_pointers();
  void write_documents();
  void write_header();
  uint64_t hash_of_index();

  std::string prefix_;
  TokenDtype dtype_;
  PartialFile bin_, idx_, borders_;  // borders_ is never committed: a spool for the last table of the index
  StreamHash bin_hash_;
  std::string packed_;
  int64_t open_tokens_ = 0, tokens_ = 0, sequences_ = 0, documents_ = 0;
  TokenId max_id_ = 0;
};

}  // namespace megatron
