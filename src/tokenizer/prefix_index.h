// Which words of a list does a text begin with?
#pragma once

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace megatron {

/// Sorted words; a search narrows the range of those that agree, byte by byte.
class PrefixIndex {
 public:
  PrefixIndex() = default;
  explicit PrefixIndex(std::vector<std::pair<std::string, TokenId>> words) : words_(std::move(words)) {
    std::sort(words_.begin(), words_.end());
    size_t i = 0;
    for (size_t byte = 0; byte < 256; ++byte) {
      starts_[byte] = i;
      while (i < words_.size() && static_cast<uint8_t>(words_[i].first[0]) == byte) ++i;
    }
    starts_[256] = i;
  }

  bool empty() const { return words_.empty(); }

  /// Calls found(length, id) for each word that `text` begins with, the shortest first. No word is empty.
  template <typename Found>
  void find(std::string_view text, const Found& found) const {
    if (text.empty() || words_.empty()) return;
    const auto first = static_cast<uint8_t>(text[0]);
    size_t begin = starts_[first], end = starts_[size_t{first} + 1];
    for (size_t length = 1; begin < end; ++length) {
      if (words_[begin].first.size() == length) found(length, words_[begin++].second);
      if (length == text.size()) return;
      const auto next = static_cast<uint8_t>(text[length]);
      const auto at = [&](size_t bound, int above) {  // the first word from `begin` on whose next byte is >= bound
        const auto less = [&](const auto& word, int value) { return static_cast<uint8_t>(word.first[length]) < value; };
        return static_cast<size_t>(std::lower_bound(words_.begin() + static_cast<std::ptrdiff_t>(begin),
                                                    words_.begin() + static_cast<std::ptrdiff_t>(bound), above, less) -
                                   words_.begin());
      };
      begin = at(end, next);
      end = at(end, next + 1);
    }
  }

  /// The longest of them: its length, 0 where there is none.
  size_t longest(std::string_view text) const {
    size_t longest = 0;
    find(text, [&](size_t length, TokenId /*id*/) { longest = length; });
    return longest;
  }

 private:
  std::vector<std::pair<std::string, TokenId>> words_;
  std::array<size_t, 257> starts_{};
};

}  // namespace megatron
