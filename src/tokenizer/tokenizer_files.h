// Readers of tokenizer files. All of them throw DataError with file, place and remedy.
#pragma once

#include <memory>
#include <string>

#include "tokenizer/bpe_tokenizer.h"

namespace megatron {

/// A Hugging Face tokenizer.json with a byte-level BPE model. The end-of-document and padding tokens are `eos_token`
/// and `pad_token` of tokenizer_config.json or special_tokens_map.json in the same folder; without them the end token
/// is the first of <|endoftext|>, <|end_of_text|>, </s>, <eos> among the special tokens.
BpeDefinition read_tokenizer_json(const std::string& path);
/// The same of its text, which was read from `path`.
BpeDefinition parse_tokenizer_json(const std::string& text, const std::string& path);

/// GPT-2's vocab.json and merges.txt; <|endoftext|>, when the vocabulary has it, is a special token and the end token.
BpeDefinition read_gpt2_files(const std::string& vocab_file, const std::string& merge_file);

/// The text of a tokenizer.json for byte-level BPE with GPT-2's pre-tokenizer, as Hugging Face's library writes it.
/// Needs a definition without holes, made of special tokens, bytes and merges.
std::string tokenizer_json_text(const BpeDefinition& definition);

}  // namespace megatron
