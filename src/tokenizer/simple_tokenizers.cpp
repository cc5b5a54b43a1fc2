#include "tokenizer/simple_tokenizers.h"

#include <algorithm>
#include <charconv>

#include "base/error.h"
#include "base/strings.h"

namespace megatron {
namespace {

void check_id(TokenId id, int64_t vocab_size) {
  if (id < 0 || id >= vocab_size) {
    throw DataError(str_cat("id ", id, " is outside the vocabulary of ", vocab_size,
                            " ids. Decode with the tokenizer that made the ids"));
  }
}

}  // namespace

std::vector<TokenId> ByteTokenizer::encode(std::string_view text) const {
  std::vector<TokenId> ids(text.size());
  for (size_t i = 0; i < text.size(); ++i) ids[i] = static_cast<uint8_t>(text[i]);
  return ids;
}

std::string ByteTokenizer::token_bytes(TokenId id) const {
  check_id(id, vocab_size());
  return id == 256 ? "<|endoftext|>" : std::string(1, static_cast<char>(id));
}

uint64_t ByteTokenizer::fingerprint() const {
  return hash_name("ByteTokenizer");
}

NullTokenizer::NullTokenizer(int64_t ids) : ids_(ids) {
  if (ids < 1 || ids >= INT32_MAX) {
    throw UsageError(
        str_cat("NullTokenizer needs vocab_size, the number of ids without the end-of-document id, is ", ids));
  }
}

std::vector<TokenId> NullTokenizer::encode(std::string_view text) const {
  std::vector<TokenId> ids;
  const auto space = [](char c) { return c == ' ' || (c >= '\t' && c <= '\r'); };
  for (size_t i = 0; i < text.size();) {
    if (space(text[i])) {
      ++i;
      continue;
    }
    size_t end = i;
    while (end < text.size() && !space(text[end])) ++end;
    int64_t id = -1;
    const auto [stop, fault] = std::from_chars(text.data() + i, text.data() + end, id);
    if (fault != std::errc() || stop != text.data() + end || id < 0 || id > ids_) {
      throw DataError(str_cat("NullTokenizer: '", text.substr(i, std::min<size_t>(end - i, 40)), "' at byte ", i,
                              " is no id between 0 and ", ids_, ". The text must be ids with spaces between them"));
    }
    ids.push_back(static_cast<TokenId>(id));
    i = end;
  }
  return ids;
}

std::string NullTokenizer::token_bytes(TokenId id) const {
  check_id(id, vocab_size());
  return std::to_string(id) + " ";
}

std::string NullTokenizer::decode(const std::vector<TokenId>& ids) const {
  std::string text = Tokenizer::decode(ids);
  if (!text.empty()) text.pop_back();
  return text;
}

uint64_t NullTokenizer::fingerprint() const {
  return hash_name(str_cat("NullTokenizer ", ids_));
}

}  // namespace megatron
