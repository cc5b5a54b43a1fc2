// Parts of a tokenizer.json that mean the same for every kind of model.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe_tokenizer.h"
#include "tokenizer/json_node.h"
#include "tokenizer/sentencepiece_model.h"

namespace megatron {

/// The document of a tokenizer.json, read from `path`.
BpeDefinition bpe_definition(const nlohmann::json& document, const std::string& path);
SentencePieceDefinition sentencepiece_definition(const nlohmann::json& document, const std::string& path);
/// Is it BPE with byte fallback, rather than byte-level BPE?
bool has_byte_fallback(const nlohmann::json& document);

/// Throws: the file holds a part that we do not have.
[[noreturn]] void refuse_part(const JsonNode& node, const std::string& what);

/// Calls use(place, token) for each entry of `added_tokens`.
void for_each_added_token(const JsonNode& root, const std::function<void(const JsonNode&, const AddedToken&)>& use);

/// Adds what a post-processor puts before and behind a text.
void read_post_processor(const JsonNode& node, std::vector<TokenId>& prefix, std::vector<TokenId>& suffix);

struct EndTokens {
  std::optional<TokenId> eod, pad;
};
/// eos_token and pad_token of tokenizer_config.json or special_tokens_map.json beside `path`; without them the end
/// token is one of the usual ones among the special tokens.
EndTokens find_end_tokens(const std::string& path, const std::vector<AddedToken>& added,
                          const std::function<std::optional<TokenId>(const std::string&)>& find);

}  // namespace megatron
