#include "tokenizer/bpe_trainer.h"

#include <algorithm>
#include <array>
#include <set>
#include <unordered_map>

#include "base/check.h"
#include "base/error.h"
#include "base/strings.h"
#include "tokenizer/flat_map.h"
#include "tokenizer/unicode.h"

namespace megatron {
namespace {

/// A pair that may be merged next, with the words in which it was found. Its count may be out of date.
struct Candidate {
  int64_t count;
  uint64_t pair;
  std::vector<uint32_t> words;
};

/// Heap order: the largest count, then the smallest pair, on top.
bool lower(const Candidate& a, const Candidate& b) {
  return a.count != b.count ? a.count < b.count : a.pair > b.pair;
}

class Trainer {
 public:
  Trainer(const WordCounter& words, const BpeTrainOptions& options);
  BpeDefinition run();

 private:
  void add_special_tokens();
  void add_token(const std::string& written, const std::string& bytes, bool mergeable);
  void count_pairs();
  TokenId token_for(TokenId left, TokenId right);
  void merge_in_word(uint32_t word, TokenId left, TokenId right, TokenId whole);
  void change(TokenId left, TokenId right, int64_t count, uint32_t word);
  void push_found();
  Candidate pop();
  std::vector<Merge> without_repeats() const;

  const BpeTrainOptions& options_;
  const std::vector<CountedWord> words_;
  BpeDefinition result_;
  std::vector<std::string> written_;                    ///< tokens in byte-level letters, special ones as they are
  std::unordered_map<std::string, TokenId> token_ids_;  ///< of what is written
  std::array<TokenId, 256> byte_ids_{};
  std::vector<TokenId> symbols_;  ///< the ids of all words, each in its place
  std::vector<size_t> begin_;
  std::vector<uint32_t> size_;
  FlatMap<int64_t> counts_;                                        ///< of pairs
  FlatMap<uint32_t> found_index_;                                  ///< pair -> place in found_, of this step
  std::vector<std::pair<uint64_t, std::vector<uint32_t>>> found_;  ///< pairs that became more frequent, and where
  std::vector<Candidate> heap_;
};

Trainer::Trainer(const WordCounter& words, const BpeTrainOptions& options) : options_(options), words_(words.sorted()) {
  result_.source = "the trained vocabulary";
  const std::vector<std::string>& specials = options.special_tokens;
  const auto needed = static_cast<int64_t>(specials.size()) + 256;
  if (options.vocab_size < needed) {
    throw UsageError(str_cat("a vocabulary of ", options.vocab_size, " can't hold ", specials.size(),
                             " special tokens and 256 bytes: vocab-size must be at least ", needed));
  }
  if (options.vocab_size > int64_t{1} << 24) throw UsageError("vocab-size must be at most 16777216");
  add_special_tokens();
  std::vector<uint8_t> bytes(256);
  for (size_t i = 0; i < 256; ++i) bytes[i] = static_cast<uint8_t>(i);
  std::sort(bytes.begin(), bytes.end(), [](uint8_t a, uint8_t b) { return byte_level_char(a) < byte_level_char(b); });
  for (uint8_t byte : bytes) {
    const std::string text(1, static_cast<char>(byte));
    const std::string written = byte_level_encode(text);
    if (token_ids_.count(written) == 0) add_token(written, text, true);  // a special token may be a letter
    byte_ids_[byte] = token_ids_.at(written);
  }
  if (!specials.empty()) result_.eod = 0;
}

void Trainer::add_special_tokens() {
  const std::vector<std::string>& specials = options_.special_tokens;
  for (const std::string& content : specials) {
    if (content.empty()) throw UsageError("a special token must not be empty");
    if (std::count(specials.begin(), specials.end(), content) > 1) {
      throw UsageError(str_cat("the special token '", content, "' is there twice"));
    }
    AddedToken token;
    token.id = static_cast<TokenId>(result_.tokens.size());
    token.content = content;
    token.special = true;
    result_.added.push_back(token);
    add_token(content, content, false);
  }
}

void Trainer::add_token(const std::string& written, const std::string& bytes, bool mergeable) {
  token_ids_.emplace(written, static_cast<TokenId>(result_.tokens.size()));
  written_.push_back(written);
  result_.tokens.push_back(bytes);
  result_.mergeable.push_back(mergeable);
}

void Trainer::count_pairs() {
  size_t total = 0;
  for (const CountedWord& word : words_) total += word.word.size();
  symbols_.reserve(total);
  for (uint32_t i = 0; i < words_.size(); ++i) {
    begin_.push_back(symbols_.size());
    size_.push_back(static_cast<uint32_t>(words_[i].word.size()));
    for (char c : words_[i].word) symbols_.push_back(byte_ids_[static_cast<uint8_t>(c)]);
    for (size_t k = begin_[i]; k + 1 < symbols_.size(); ++k) change(symbols_[k], symbols_[k + 1], words_[i].count, i);
  }
}

/// The words that a pair is found in are listed once each: words come in order.
void Trainer::change(TokenId left, TokenId right, int64_t count, uint32_t word) {
  const uint64_t pair = pair_key(left, right);
  counts_[pair] += count;
  if (count < 0) return;
  uint32_t& index = found_index_[pair];
  if (index == 0) {
    found_.emplace_back(pair, std::vector<uint32_t>{});
    index = static_cast<uint32_t>(found_.size());
  }
  std::vector<uint32_t>& words = found_[index - 1].second;
  if (words.empty() || words.back() != word) words.push_back(word);
}

void Trainer::push_found() {
  for (auto& [pair, words] : found_) {
    const int64_t count = *counts_.find(pair);
    if (count <= 0) continue;
    heap_.push_back({count, pair, std::move(words)});
    std::push_heap(heap_.begin(), heap_.end(), lower);
  }
  found_.clear();
  found_index_ = FlatMap<uint32_t>();
}

Candidate Trainer::pop() {
  std::pop_heap(heap_.begin(), heap_.end(), lower);
  Candidate top = std::move(heap_.back());
  heap_.pop_back();
  return top;
}

/// A special token may be a word that merges make too; it keeps its id.
TokenId Trainer::token_for(TokenId left, TokenId right) {
  const std::string written = written_[static_cast<size_t>(left)] + written_[static_cast<size_t>(right)];
  const auto known = token_ids_.find(written);
  if (known != token_ids_.end()) return known->second;
  const auto id = static_cast<TokenId>(result_.tokens.size());
  std::string bytes;
  MEGATRON_CHECK(byte_level_decode(written, bytes), "merges are made of bytes");
  add_token(written, bytes, true);
  return id;
}

/// Replaces the pair from left to right, and keeps the counts of the pairs around it. The count of the merged pair
/// itself stays as it was, as Hugging Face's trainer leaves it: it matters when the same token is made once more.
void Trainer::merge_in_word(uint32_t word, TokenId left, TokenId right, TokenId whole) {
  TokenId* ids = symbols_.data() + begin_[word];
  const uint32_t size = size_[word];
  const int64_t count = words_[word].count;
  uint32_t out = 0;
  for (uint32_t i = 0; i < size; ++out) {
    if (i + 1 >= size || ids[i] != left || ids[i + 1] != right) {
      ids[out] = ids[i++];
      continue;
    }
    if (out > 0) {
      change(ids[out - 1], left, -count, word);
      change(ids[out - 1], whole, count, word);
    }
    if (i + 2 < size) {
      change(right, ids[i + 2], -count, word);
      change(whole, ids[i + 2], count, word);
    }
    ids[out] = whole;
    i += 2;
  }
  size_[word] = out;
}

BpeDefinition Trainer::run() {
  count_pairs();
  push_found();
  while (static_cast<int64_t>(result_.tokens.size()) < options_.vocab_size && !heap_.empty()) {
    Candidate top = pop();
    const int64_t count = *counts_.find(top.pair);
    if (top.count != count) {
      if (count <= 0) continue;
      top.count = count;
      heap_.push_back(std::move(top));
      std::push_heap(heap_.begin(), heap_.end(), lower);
      continue;
    }
    if (count < std::max<int64_t>(1, options_.min_frequency)) break;
    const auto left = static_cast<TokenId>(top.pair >> 32), right = static_cast<TokenId>(top.pair & 0xffffffffu);
    const TokenId whole = token_for(left, right);
    result_.merges.push_back({left, right, whole});
    for (uint32_t word : top.words) merge_in_word(word, left, right, whole);
    push_found();
    if (options_.progress && result_.merges.size() % 1024 == 0) {
      options_.progress(static_cast<int64_t>(result_.tokens.size()));
    }
  }
  result_.merges = without_repeats();
  return std::move(result_);
}

/// A pair that was merged again later has the later rank only.
std::vector<Merge> Trainer::without_repeats() const {
  std::set<std::pair<TokenId, TokenId>> seen;
  std::vector<Merge> merges;
  for (size_t i = result_.merges.size(); i-- > 0;) {
    if (seen.emplace(result_.merges[i].left, result_.merges[i].right).second) merges.push_back(result_.merges[i]);
  }
  std::reverse(merges.begin(), merges.end());
  return merges;
}

}  // namespace

BpeDefinition train_bpe(const WordCounter& words, const BpeTrainOptions& options) {
  BpeDefinition result = Trainer(words, options).run();
  PreTokenizerStep step;
  step.description = str_cat("pieces of ", scanner_pattern(ScannerKind::kGpt2));
  result.steps.push_back(step);
  return result;
}

}  // namespace megatron
