#include "tokenizer/word_counter.h"

#include <algorithm>

#include "base/hash.h"

namespace megatron {
namespace {

constexpr size_t kLongestWord = 1024;

}  // namespace

WordCounter::WordCounter() : slots_(1024) {}

void WordCounter::add(std::string_view word, int64_t count) {
  const uint64_t hash = xxh64(word);
  const size_t mask = slots_.size() - 1;
  for (size_t i = hash & mask;; i = (i + 1) & mask) {
    Slot& slot = slots_[i];
    if (slot.count == 0) {
      slot = {hash, text_.size(), static_cast<uint32_t>(word.size()), count};
      text_ += word;
      if (++size_ * 2 > slots_.size()) grow();
      return;
    }
    if (slot.hash == hash && this->word(slot) == word) {
      slot.count += count;
      return;
    }
  }
}

void WordCounter::grow() {
  std::vector<Slot> old(slots_.size() * 2);
  old.swap(slots_);
  const size_t mask = slots_.size() - 1;
  for (const Slot& slot : old) {
    if (slot.count == 0) continue;
    size_t i = slot.hash & mask;
    while (slots_[i].count != 0) i = (i + 1) & mask;
    slots_[i] = slot;
  }
}

void WordCounter::add_pieces(std::string_view text, Scanner scanner) {
  const char* end = text.data() + text.size();
  for (const char* p = text.data(); p < end;) {
    const char* stop = scanner(p, end);
    for (; p < stop; p += std::min<size_t>(kLongestWord, static_cast<size_t>(stop - p))) {
      add({p, std::min<size_t>(kLongestWord, static_cast<size_t>(stop - p))});
    }
  }
}

void WordCounter::merge(const WordCounter& other) {
  for (const Slot& slot : other.slots_) {
    if (slot.count != 0) add(other.word(slot), slot.count);
  }
}

std::vector<CountedWord> WordCounter::sorted() const {
  std::vector<CountedWord> words;
  words.reserve(size_);
  for (const Slot& slot : slots_) {
    if (slot.count != 0) words.push_back({word(slot), slot.count});
  }
  std::sort(words.begin(), words.end(), [](const CountedWord& a, const CountedWord& b) { return a.word < b.word; });
  return words;
}

}  // namespace megatron
