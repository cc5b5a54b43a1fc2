// Tokenizers inside GGUF files: byte-level BPE and SentencePiece.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "checkpoint/gguf.h"
#include "tokenizer/added_tokens.h"

namespace megatron {

/// tokenizer.json or tokenizer.model, and tokenizer_config.json, made of the keys "tokenizer.*" of a file; empty, with
/// a warning, where the tokenizer is of a kind that is not supported. DataError for lists that contradict each other.
std::map<std::string, std::string> gguf_tokenizer_files(const std::map<std::string, GgufValue>& metadata,
                                                        const std::string& path);

/// The keys "tokenizer.*" for the tokenizer.json or tokenizer.model among `texts`, with `rows` ids; empty, with a
/// warning, where there is none or it is of another kind.
std::map<std::string, GgufValue> gguf_tokenizer_keys(const std::map<std::string, std::string>& texts, int64_t rows);

/// The same for SentencePiece alone. `added`: tokens behind the pieces of the model.
std::map<std::string, std::string> gguf_sentencepiece_files(const std::map<std::string, GgufValue>& metadata,
                                                            const std::vector<std::string>& tokens,
                                                            const std::string& path);
std::map<std::string, GgufValue> gguf_sentencepiece_keys(const std::string& model, const std::vector<AddedToken>& added,
                                                         int64_t rows, bool add_begin);

}  // namespace megatron
