#include "tokenizer/vocabulary_builder.h"

#include "base/strings.h"
#include "tokenizer/unicode.h"

namespace megatron {
namespace {

constexpr int64_t kMostIds = int64_t{1} << 24;  // a hundred times the vocabularies of today

}  // namespace

std::string VocabularyBuilder::place(int64_t id, const std::string& written, const std::string& bytes) {
  if (id < 0 || id >= kMostIds) return str_cat("the id of '", written, "' is ", id, ", outside 0 to ", kMostIds - 1);
  if (bytes.empty()) return str_cat("the token with id ", id, " is empty");
  const auto index = static_cast<size_t>(id);
  if (index >= definition_.tokens.size()) {
    definition_.tokens.resize(index + 1);
    definition_.mergeable.resize(index + 1, false);
  }
  if (!definition_.tokens[index].empty()) {
    return str_cat("id ", id, " belongs to two tokens, '", definition_.tokens[index], "' and '", bytes, "'");
  }
  definition_.tokens[index] = bytes;
  ++count_;
  return {};
}

std::string VocabularyBuilder::add(const std::string& written, int64_t id) {
  std::string bytes;
  const bool byte_level = byte_level_decode(written, bytes);
  if (!byte_level) bytes = written;
  if (std::string fault = place(id, written, bytes); !fault.empty()) return fault;
  definition_.mergeable[static_cast<size_t>(id)] = byte_level;
  ids_.emplace(written, static_cast<TokenId>(id));
  return {};
}

std::string VocabularyBuilder::add_outside(const AddedToken& token) {
  if (token.content.empty()) return str_cat("the token with id ", token.id, " is empty");
  if (added_ids_.count(token.content) != 0) return str_cat("the token '", token.content, "' is there twice");
  const auto known = ids_.find(token.content);
  if (known == ids_.end()) {
    if (std::string fault = place(token.id, token.content, token.content); !fault.empty()) return fault;
  } else if (known->second != token.id) {
    return str_cat("'", token.content, "' has id ", token.id, " here and ", known->second, " in the vocabulary");
  } else {
    definition_.tokens[static_cast<size_t>(token.id)] = token.content;  // it stands for its own text
  }
  added_ids_.emplace(token.content, token.id);
  definition_.added.push_back(token);
  return {};
}

std::string VocabularyBuilder::add_merge(const std::string& left, const std::string& right) {
  TokenId parts[3];
  const std::string* names[2] = {&left, &right};
  for (int i = 0; i < 2; ++i) {
    const auto found = ids_.find(*names[i]);
    if (found == ids_.end()) return str_cat("merges '", *names[i], "', which is not in the vocabulary");
    parts[i] = found->second;
  }
  const auto whole = ids_.find(left + right);
  if (whole == ids_.end()) return str_cat("makes '", left, right, "', which is not in the vocabulary");
  parts[2] = whole->second;
  definition_.merges.push_back({parts[0], parts[1], parts[2]});
  return {};
}

std::string VocabularyBuilder::check_ids() const {
  const auto range = static_cast<int64_t>(definition_.tokens.size());
  if (count_ == 0) return "the vocabulary is empty";
  // Published vocabularies have small holes; a wide one is a damaged file and would make embeddings of that size.
  if (range > 4 * count_ + 1024) {
    return str_cat("the highest id is ", range - 1, ", but there are only ", count_, " tokens");
  }
  return {};
}

std::optional<TokenId> VocabularyBuilder::find(const std::string& written) const {
  for (const auto* map : {&added_ids_, &ids_}) {
    if (const auto found = map->find(written); found != map->end()) return found->second;
  }
  return std::nullopt;
}

}  // namespace megatron
