// SentencePiece tokenizers inside GGUF files: pieces, scores and kinds as lists.
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/strings.h"
#include "checkpoint/gguf_tokenizer.h"
#include "checkpoint/strict_json.h"
#include "tokenizer/sentencepiece_model.h"
#include "tokenizer/tokenizer.h"

namespace megatron {
namespace {

constexpr char kModel[] = "tokenizer.ggml.model", kPre[] = "tokenizer.ggml.pre", kTokens[] = "tokenizer.ggml.tokens",
               kScores[] = "tokenizer.ggml.scores", kTypes[] = "tokenizer.ggml.token_type",
               kBegin[] = "tokenizer.ggml.bos_token_id", kEnd[] = "tokenizer.ggml.eos_token_id",
               kUnknown[] = "tokenizer.ggml.unknown_token_id", kPad[] = "tokenizer.ggml.padding_token_id",
               kAddBegin[] = "tokenizer.ggml.add_bos_token", kAddSpace[] = "tokenizer.ggml.add_space_prefix",
               kCollapse[] = "tokenizer.ggml.remove_extra_whitespaces";

template <typename T>
const T& required(const std::map<std::string, GgufValue>& metadata, const char* key, size_t size,
                  const std::string& path) {
  const auto found = metadata.find(key);
  const T* list = found == metadata.end() ? nullptr : std::get_if<T>(&found->second);
  if (list == nullptr || list->size() != size) {
    fail_at(path, str_cat(key, " has not one entry for each of ", size, " tokens"));
  }
  return *list;
}

bool flag(const std::map<std::string, GgufValue>& metadata, const char* key, bool absent) {
  const auto found = metadata.find(key);
  const bool* value = found == metadata.end() ? nullptr : std::get_if<bool>(&found->second);
  return value == nullptr ? absent : *value;
}

std::optional<TokenId> id_of(const std::map<std::string, GgufValue>& metadata, const char* key, size_t size,
                             const std::string& path) {
  const auto found = metadata.find(key);
  const auto* id = found == metadata.end() ? nullptr : std::get_if<int64_t>(&found->second);
  if (id == nullptr) return std::nullopt;
  if (*id < 0 || *id >= static_cast<int64_t>(size)) fail_at(path, str_cat(key, ": there is no token ", *id));
  return static_cast<TokenId>(*id);
}

}  // namespace

std::map<std::string, std::string> gguf_sentencepiece_files(const std::map<std::string, GgufValue>& metadata,
                                                            const std::vector<std::string>& tokens,
                                                            const std::string& path) {
  const auto& scores = required<std::vector<double>>(metadata, kScores, tokens.size(), path);
  const auto& types = required<std::vector<int64_t>>(metadata, kTypes, tokens.size(), path);
  SentencePieceDefinition d;
  d.source = path;
  size_t bytes = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (types[i] < 1 || types[i] > 6) fail_at(path, str_cat(kTypes, ": token ", i, " has the unknown type ", types[i]));
    d.pieces.push_back({tokens[i], static_cast<float>(scores[i]), static_cast<PieceKind>(types[i])});
    bytes += d.pieces.back().kind == PieceKind::kByte;
    if (d.pieces.back().kind == PieceKind::kUnknown) d.unknown = static_cast<TokenId>(i);
  }
  d.byte_fallback = bytes == 256;
  d.collapse_spaces = flag(metadata, kCollapse, false);
  d.dummy_prefix = flag(metadata, kAddSpace, true) ? DummyPrefix::kAlways : DummyPrefix::kNever;
  d.begin = id_of(metadata, kBegin, tokens.size(), path);
  d.end = id_of(metadata, kEnd, tokens.size(), path);
  d.pad = id_of(metadata, kPad, tokens.size(), path);
  check_sentencepiece(d);
  nlohmann::json settings = {{"tokenizer_class", "LlamaTokenizer"}, {"add_bos_token", flag(metadata, kAddBegin, true)}};
  const auto name = [&](const char* key, std::optional<TokenId> id) {
    if (id) settings[key] = d.pieces[static_cast<size_t>(*id)].text;
  };
  name("bos_token", d.begin);
  name("eos_token", d.end);
  return {{kSentencePieceName, sentencepiece_model_bytes(d)},
          {"tokenizer_config.json", settings.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n"}};
}

std::map<std::string, GgufValue> gguf_sentencepiece_keys(const std::string& model, const std::vector<AddedToken>& added,
                                                         int64_t rows, bool add_begin) {
  const SentencePieceDefinition d = parse_sentencepiece_model(model, kSentencePieceName);
  if (d.algorithm != SentencePieceDefinition::Algorithm::kBpe || !d.charsmap.empty() || d.suffix_instead) {
    throw DataError(str_cat(kSentencePieceName,
                            ": GGUF files of these families hold SentencePiece models of type bpe without a table of "
                            "normalisation and with spaces before words; this is another one"));
  }
  std::vector<std::string> tokens;
  std::vector<double> scores;
  std::vector<int64_t> types;
  for (int64_t i = 0; i < rows; ++i) {  // rows without a piece are not used
    const bool there = i < std::ssize(d.pieces);
    const SentencePiece piece =
        there ? d.pieces[static_cast<size_t>(i)] : SentencePiece{str_cat("[PAD", i, "]"), 0, PieceKind::kUnused};
    tokens.push_back(piece.text);
    scores.push_back(static_cast<double>(piece.score));
    types.push_back(static_cast<int64_t>(piece.kind));
  }
  for (const AddedToken& token : added) {
    if (token.id < std::ssize(d.pieces) || token.id >= rows) continue;
    tokens[static_cast<size_t>(token.id)] = token.content;
    types[static_cast<size_t>(token.id)] =
        static_cast<int64_t>(token.special ? PieceKind::kControl : PieceKind::kUserDefined);
  }
  std::map<std::string, GgufValue> keys = {{kModel, std::string("llama")},
                                           {kPre, std::string("default")},
                                           {kUnknown, int64_t{d.unknown}},
                                           {kAddBegin, add_begin && d.begin},
                                           {kAddSpace, d.dummy_prefix != DummyPrefix::kNever},
                                           {kCollapse, d.collapse_spaces}};
  if (d.begin) keys[kBegin] = int64_t{*d.begin};
  if (d.end) keys[kEnd] = int64_t{*d.end};
  if (d.pad) keys[kPad] = int64_t{*d.pad};
  keys[kTokens] = std::move(tokens);
  keys[kScores] = std::move(scores);
  keys[kTypes] = std::move(types);
  return keys;
}

}  // namespace megatron
