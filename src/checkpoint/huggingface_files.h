// Names of the files in a Hugging Face folder.
#pragma once

#include <array>
#include <map>
#include <string>

#include "config/config.h"

namespace megatron {

inline constexpr char kConfigName[] = "config.json", kModelName[] = "model.safetensors",
                      kIndexName[] = "model.safetensors.index.json", kTokenizerConfigName[] = "tokenizer_config.json";

/// What goes with the weights, word for word.
inline constexpr std::array kSmallFiles = {"config.json",
                                           "generation_config.json",
                                           "tokenizer.json",
                                           "tokenizer_config.json",
                                           "special_tokens_map.json",
                                           "vocab.json",
                                           "merges.txt",
                                           "tokenizer.model",
                                           "added_tokens.json",
                                           "chat_template.jinja",
                                           "vocab.txt"};

/// add_bos_token of tokenizer_config.json; LLaMA's and Mistral's tokenizers put their begin token before a prompt where
/// it does not say.
bool adds_begin_token(const std::map<std::string, std::string>& texts);
/// Section `data` names the tokenizer that is among `texts`; without one it stays NullTokenizer.
void set_tokenizer(Config& config, const std::map<std::string, std::string>& texts);

}  // namespace megatron
