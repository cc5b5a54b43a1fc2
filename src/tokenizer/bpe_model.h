// Byte-pair merges within one piece of text.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizer/flat_map.h"
#include "tokenizer/tokenizer.h"

namespace megatron {

/// The pair (left, right) becomes `result`; its rank is its place in the list.
struct Merge {
  TokenId left, right, result;
};

/// The ids of short pieces, remembered: most pieces of a text are words seen before. Direct-mapped, of fixed size; one
/// thread at a time.
class WordCache {
 public:
  static constexpr size_t kMaxBytes = 24, kMaxIds = 9, kEntries = size_t{1} << 15;
  struct Entry {
    std::array<uint64_t, 3> key;  ///< the bytes, padded with zeros
    uint8_t bytes;                ///< 0: unused
    uint8_t count;
    std::array<TokenId, kMaxIds> ids;
  };
  WordCache() : entries_(kEntries) {}
  /// The entry where `word` (1 to kMaxBytes bytes) belongs, and whether it is there. When not, `entry.bytes` is 0, its
  /// key is set, and the caller may complete it.
  Entry& find(std::string_view word, bool& found);

 private:
  std::vector<Entry> entries_;
};

struct BpeOptions {
  bool ignore_merges = false;      ///< a piece that is a token as a whole is that token
  std::optional<TokenId> unknown;  ///< for bytes without a token; without it they are a DataError
  bool fuse_unknown = false;       ///< a run of such bytes is one unknown token
};

/// Merges the pair of lowest rank, the leftmost first, until no pair is left: n log n in the length of the piece.
class BpeModel {
 public:
  /// `tokens`: bytes by id; ids that are no part of the merge vocabulary are empty. `place` names the file.
  BpeModel(const std::vector<std::string>& tokens, const std::vector<Merge>& merges, BpeOptions options,
           std::string place);

  /// Appends the ids of one piece.
  void encode(std::string_view piece, WordCache& cache, std::vector<TokenId>& out) const;

 private:
  struct Ranked {
    uint32_t rank = 0;
    TokenId result = -1;
  };
  Ranked ranked(TokenId left, TokenId right) const;
  void encode_uncached(std::string_view piece, std::vector<TokenId>& out) const;
  size_t symbols(std::string_view piece, TokenId* ids) const;
  size_t merge_short(TokenId* ids, size_t count) const;
  void merge_long(std::vector<TokenId>& ids) const;

  FlatMap<Ranked> merges_;
  std::array<TokenId, 256> byte_ids_{};
  std::unordered_map<std::string, TokenId> whole_;  ///< only with ignore_merges
  BpeOptions options_;
  std::string place_;
};

}  // namespace megatron
