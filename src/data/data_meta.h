// The side file `<prefix>.meta.json`: which tokenizer made the ids, and hashes that find damaged bytes. Megatron-LM
// neither writes nor needs it; data without it is accepted and its ids are checked against the vocabulary instead.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "tokenizer/tokenizer.h"

namespace megatron {

/// What decides whether ids can be read with a tokenizer.
struct TokenizerIdentity {
  uint64_t fingerprint = 0;
  int64_t vocab_size = 0;
  std::optional<TokenId> eod;
  bool operator==(const TokenizerIdentity&) const = default;
};

TokenizerIdentity identity_of(const Tokenizer& tokenizer);

struct DataMeta {
  TokenizerIdentity tokenizer;
  int64_t tokens = 0, sequences = 0, documents = 0;
  TokenId max_token_id = 0;
  uint64_t bin_hash = 0, idx_hash = 0;  ///< StreamHash of the two files
};

std::string meta_path(const std::string& prefix);

/// Empty when there is no side file; DataError when there is one that can't be understood.
std::optional<DataMeta> read_meta(const std::string& prefix);

std::string format_meta(const DataMeta& meta);

}  // namespace megatron
