// How often each piece of text occurs in a corpus.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/scanner.h"

namespace megatron {

struct CountedWord {
  std::string_view word;
  int64_t count;
};

/// A hash table of words with their counts; the words lie one behind the other in one buffer.
class WordCounter {
 public:
  WordCounter();
  void add(std::string_view word, int64_t count = 1);
  /// Adds each piece that the scanner cuts from `text`. Pieces over 1024 bytes are counted in parts of that size, so
  /// that a megabyte without a space can't make training quadratic.
  void add_pieces(std::string_view text, Scanner scanner);
  void merge(const WordCounter& other);

  size_t size() const { return size_; }
  /// Ordered by bytes, so the result does not depend on who counted what. Views into this counter.
  std::vector<CountedWord> sorted() const;

 private:
  struct Slot {
    uint64_t hash = 0;
    uint64_t begin = 0;
    uint32_t bytes = 0;
    int64_t count = 0;  ///< 0: unused
  };
  std::string_view word(const Slot& slot) const { return std::string_view(text_).substr(slot.begin, slot.bytes); }
  void grow();

  std::string text_;
  std::vector<Slot> slots_;
  size_t size_ = 0;
};

}  // namespace megatron
