#include "tokenizer/added_tokens.h"

#include <algorithm>

#include "tokenizer/unicode.h"

namespace megatron {
namespace {

uint64_t edge_key(int32_t node, char byte) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(node)) << 8) | static_cast<uint8_t>(byte);
}

/// Class bits of the last character of text[0, end).
uint8_t class_before(std::string_view text, size_t end) {
  for (size_t length = 1; length <= 4 && length <= end; ++length) {
    const CodePoint c = decode_utf8(text.data() + end - length, text.data() + end);
    if (c.value != kInvalidCodePoint && c.length == length) return char_class(c.value);
  }
  return 0;
}

uint8_t class_at(std::string_view text, size_t at) {
  if (at >= text.size()) return 0;
  return char_class(decode_utf8(text.data() + at, text.data() + text.size()).value);
}

size_t skip_space_back(std::string_view text, size_t end, size_t limit) {
  while (end > limit && (class_before(text, end) & kSpace) != 0) {
    do --end;
    while (end > limit && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80);
  }
  return end;
}

size_t skip_space(std::string_view text, size_t at) {
  while ((class_at(text, at) & kSpace) != 0) at += decode_utf8(text.data() + at, text.data() + text.size()).length;
  return at;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)), ending_(1, -1) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    int32_t node = 0;
    for (char byte : tokens_[i].content) {
      int32_t& next = edges_[edge_key(node, byte)];
      if (next == 0) {
        next = static_cast<int32_t>(ending_.size());
        ending_.push_back(-1);
      }
      node = next;
    }
    if (node != 0) ending_[static_cast<size_t>(node)] = static_cast<int32_t>(i);
    if (node != 0) starts_[static_cast<uint8_t>(tokens_[i].content[0])] = true;
  }
}

AddedTokenMatcher::Match AddedTokenMatcher::find(std::string_view text, size_t from) const {
  for (size_t begin = from; begin < text.size(); ++begin) {
    if (!starts_[static_cast<uint8_t>(text[begin])]) continue;
    Match match;
    int32_t node = 0;
    for (size_t at = begin; at < text.size(); ++at) {
      const int32_t* next = edges_.find(edge_key(node, text[at]));
      if (next == nullptr) break;
      node = *next;
      const int32_t token = ending_[static_cast<size_t>(node)];
      if (token >= 0) match = {begin, at + 1, &tokens_[static_cast<size_t>(token)]};
    }
    if (match.token != nullptr) return match;
  }
  return {};
}

void AddedTokenMatcher::split(std::string_view text, std::vector<TextSegment>& out) const {
  size_t done = 0;
  for (Match match = find(text, 0); match.token != nullptr; match = find(text, match.end)) {
    const AddedToken& token = *match.token;
    size_t begin = match.begin, end = match.end;
    const bool touched = (class_before(text, begin) & kWord) != 0 || (class_at(text, end) & kWord) != 0;
    if (token.single_word && touched) continue;
    // White space that a token before has swallowed is gone.
    if (token.lstrip) begin = std::max(done, skip_space_back(text, begin, std::min(done, begin)));
    if (token.rstrip) end = skip_space(text, end);
    if (begin > done) out.push_back({text.substr(done, begin - done), -1});
    out.push_back({text.substr(begin, std::max(begin, end) - begin), token.id});
    done = std::max(done, end);
  }
  if (done < text.size()) out.push_back({text.substr(done), -1});
}

}  // namespace megatron
