// Learns byte-level byte-pair merges from counted words: Sennrich, Haddow, Birch, "Neural machine translation of rare
// words with subword units", ACL 2016.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tokenizer/bpe_tokenizer.h"
#include "tokenizer/word_counter.h"

namespace megatron {

struct BpeTrainOptions {
  int64_t vocab_size = 0;                                       ///< special tokens and the 256 bytes included
  int64_t min_frequency = 2;                                    ///< rarer pairs are not merged
  std::vector<std::string> special_tokens = {"<|endoftext|>"};  ///< ids from 0 on; the first one is the end token
  std::function<void(int64_t tokens)> progress;  ///< called now and then with the tokens so far; may be empty
};

/// Ids: special tokens, bytes in the order of their byte-level letters, merges in the order they are learnt. Each step
/// merges the most frequent pair, among equals the one with the smaller left id, then the smaller right id: the result
/// is that of Hugging Face's BpeTrainer on the same words. May end below vocab_size, when no pair is frequent enough.
/// UsageError when vocab_size can't hold the special tokens and the bytes, or a special token is empty or there twice.
BpeDefinition train_bpe(const WordCounter& words, const BpeTrainOptions& options);

}  // namespace megatron
