// Byte-level BPE tokenizers inside GGUF files.
#pragma once

#include <map>
#include <string>

#include "checkpoint/gguf.h"

namespace megatron {

/// tokenizer.json and tokenizer_config.json made of the keys "tokenizer.*" of a file; empty, with a warning, where the
/// tokenizer is of a kind that is not supported. DataError for lists that contradict each other.
std::map<std::string, std::string> gguf_tokenizer_files(const std::map<std::string, GgufValue>& metadata,
                                                        const std::string& path);

/// The keys "tokenizer.*" for the tokenizer.json among `texts`, with `rows` ids; empty, with a warning, where there is
/// none or it is no byte-level BPE.
std::map<std::string, GgufValue> gguf_tokenizer_keys(const std::map<std::string, std::string>& texts, int64_t rows);

}  // namespace megatron
