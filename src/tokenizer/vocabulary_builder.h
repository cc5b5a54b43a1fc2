// Collects tokens and merges as files write them (in byte-level letters), checks them, and fills a BpeDefinition.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "tokenizer/bpe_tokenizer.h"

namespace megatron {

/// Functions return what is wrong, or an empty string; the caller knows the place in the file.
class VocabularyBuilder {
 public:
  explicit VocabularyBuilder(BpeDefinition& definition) : definition_(definition) {}

  /// A token of the merge vocabulary.
  std::string add(const std::string& written, int64_t id);
  /// A token that stands outside the merges; it may be one of the merge vocabulary too.
  std::string add_outside(const AddedToken& token);
  /// The next merge; both halves and the whole must be in the vocabulary.
  std::string add_merge(const std::string& left, const std::string& right);
  /// To be called at the end: ids must fill the range up to the highest, nearly.
  std::string check_ids() const;

  std::optional<TokenId> find(const std::string& written) const;

 private:
  std::string place(int64_t id, const std::string& written, const std::string& bytes);

  BpeDefinition& definition_;
  std::unordered_map<std::string, TokenId> ids_;        ///< of the merge vocabulary, as written
  std::unordered_map<std::string, TokenId> added_ids_;  ///< of the tokens outside
  int64_t count_ = 0;
};

}  // namespace megatron
