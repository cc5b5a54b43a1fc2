#include "checkpoint/gguf_tokenizer.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "base/log.h"
#include "base/strings.h"
#include "checkpoint/huggingface_files.h"
#include "checkpoint/strict_json.h"
#include "tokenizer/scanner.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/tokenizer_json_parts.h"
#include "tokenizer/unicode.h"

namespace megatron {

using nlohmann::json;

namespace {

constexpr char kTokens[] = "tokenizer.ggml.tokens", kTypes[] = "tokenizer.ggml.token_type",
               kMerges[] = "tokenizer.ggml.merges", kModel[] = "tokenizer.ggml.model", kPre[] = "tokenizer.ggml.pre",
               kEnd[] = "tokenizer.ggml.eos_token_id", kBegin[] = "tokenizer.ggml.bos_token_id",
               kAddBegin[] = "tokenizer.ggml.add_bos_token", kWhole[] = "tokenizer.huggingface.json";

/// Kinds of tokens, with the numbers of the file.
constexpr int64_t kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5;

/// How llama.cpp calls the patterns that we know.
struct Pattern {
  const char* name;
  ScannerKind kind;
};
constexpr std::array kPatterns = {Pattern{"gpt-2", ScannerKind::kGpt2}, Pattern{"llama-bpe", ScannerKind::kLlama3},
                                  Pattern{"qwen2", ScannerKind::kQwen2}, Pattern{"gpt2", ScannerKind::kGpt2},
                                  Pattern{"llama3", ScannerKind::kLlama3}};

template <typename T>
const T* find(const std::map<std::string, GgufValue>& metadata, const char* key) {
  const auto found = metadata.find(key);
  return found == metadata.end() ? nullptr : std::get_if<T>(&found->second);
}

json byte_level(bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

json pre_tokenizer(ScannerKind kind) {
  if (kind == ScannerKind::kGpt2) return byte_level(true);
  const json split = {
      {"type", "Split"}, {"pattern", {{"Regex", scanner_pattern(kind)}}}, {"behavior", "Isolated"}, {"invert", false}};
  return {{"type", "Sequence"}, {"pretokenizers", {split, byte_level(false)}}};
}

/// Puts the begin token before every text.
json begin_processor(const std::string& token, int64_t id) {
  const json special = {{"SpecialToken", {{"id", token}, {"type_id", 0}}}},
             text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}},
             second = {{"Sequence", {{"id", "B"}, {"type_id", 1}}}};
  return {{"type", "TemplateProcessing"},
          {"single", {special, text}},
          {"pair", {special, text, second}},
          {"special_tokens", {{token, {{"id", token}, {"ids", {id}}, {"tokens", {token}}}}}}};
}

std::string build_tokenizer(const std::vector<std::string>& tokens, const std::vector<int64_t>& types,
                            const std::vector<std::string>& merges, ScannerKind kind, std::optional<int64_t> begin) {
  json vocab = json::object(), added = json::array();
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (types[i] == kUnused) continue;
    if (types[i] == kNormal) {
      vocab[tokens[i]] = i;
      continue;
    }
    added.push_back({{"id", i},
                     {"content", tokens[i]},
                     {"special", types[i] == kControl},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false}});
  }
  const json model = {
      {"type", "BPE"}, {"ignore_merges", kind == ScannerKind::kLlama3}, {"vocab", vocab}, {"merges", merges}};
  json root = {{"version", "1.0"}, {"added_tokens", added}, {"pre_tokenizer", pre_tokenizer(kind)}, {"model", model}};
  root["normalizer"] = kind == ScannerKind::kQwen2 ? json{{"type", "NFC"}} : json(nullptr);
  root["decoder"] = byte_level(true);
  root["post_processor"] = begin ? begin_processor(tokens[static_cast<size_t>(*begin)], *begin) : json(nullptr);
  return root.dump();
}

/// They go into JSON, which holds nothing else.
void require_utf8(const std::vector<std::string>& texts, const char* key, const std::string& path) {
  for (size_t i = 0; i < texts.size(); ++i) {
    const char *p = texts[i].data(), *end = p + texts[i].size();
    while (p < end) {
      const CodePoint point = decode_utf8(p, end);
      if (point.value == kInvalidCodePoint) fail_at(path, str_cat(key, ": entry ", i, " is not UTF-8"));
      p += point.length;
    }
  }
}

std::optional<int64_t> token_id(const std::map<std::string, GgufValue>& metadata, const char* key,
                                const std::vector<std::string>& tokens, const std::string& path) {
  const auto* id = find<int64_t>(metadata, key);
  if (id == nullptr) return std::nullopt;
  if (*id < 0 || *id >= std::ssize(tokens)) fail_at(path, str_cat(key, ": there is no token ", *id));
  return *id;
}

std::optional<ScannerKind> pattern_named(const std::string& name) {
  for (const Pattern& pattern : kPatterns) {
    if (name == pattern.name) return pattern.kind;
  }
  return std::nullopt;
}

/// The pattern of a tokenizer.json: GPT-2's within ByteLevel, or a Split.
std::optional<ScannerKind> pattern_of(const json& root) {
  const auto pre = root.find("pre_tokenizer");
  if (pre == root.end() || !pre->is_object()) return std::nullopt;
  if (const auto type = pre->find("type"); type != pre->end() && *type == "ByteLevel") return ScannerKind::kGpt2;
  const auto parts = pre->find("pretokenizers");
  if (parts == pre->end() || !parts->is_array()) return std::nullopt;
  for (const json& part : *parts) {
    const json::json_pointer place("/pattern/Regex");
    if (part.is_object() && part.contains(place) && part[place].is_string()) {
      return scanner_for_pattern(part[place].get<std::string>());
    }
  }
  return std::nullopt;
}

/// Tokens by id, with their kinds; rows without a token are unused.
void list_tokens(const json& root, int64_t rows, std::vector<std::string>& tokens, std::vector<int64_t>& types) {
  for (int64_t i = 0; i < rows; ++i) tokens.push_back(str_cat("[PAD", i, "]"));
  types.assign(tokens.size(), kUnused);
  const auto put = [&](const json& id, const std::string& token, int64_t type) {
    const int64_t i = json_integer(id, 0, "tokenizer.json: token '" + token + "'");
    if (i >= rows) return;
    tokens[static_cast<size_t>(i)] = token;
    types[static_cast<size_t>(i)] = type;
  };
  for (const auto& [token, id] : root.at("model").at("vocab").items()) put(id, token, kNormal);
  const auto added = root.find("added_tokens");
  if (added == root.end() || !added->is_array()) return;
  for (const json& token : *added) {
    put(token.at("id"), token.at("content").get<std::string>(),
        token.value("special", false) ? kControl : kUserDefined);
  }
}

/// "eos_token" and the like of tokenizer_config.json: a text, or an object with one; "" where there is none.
std::string named_token(const std::map<std::string, std::string>& texts, const char* name) {
  const auto config = texts.find("tokenizer_config.json");
  if (config == texts.end()) return "";
  const json settings = parse_strict_json(config->second, "tokenizer_config.json", 0, 64);
  const auto token = settings.is_object() ? settings.find(name) : settings.end();
  if (token == settings.end()) return "";
  const json text = token->is_object() ? token->value("content", json(nullptr)) : *token;
  return text.is_string() ? text.get<std::string>() : "";
}

std::vector<AddedToken> added_tokens(const json& root) {
  const std::string file = "tokenizer.json";
  std::vector<AddedToken> added;
  for_each_added_token(JsonNode(root, file, ""), [&](const JsonNode&, const AddedToken& t) { added.push_back(t); });
  return added;
}

std::vector<std::string> list_merges(const json& root) {
  std::vector<std::string> merges;
  for (const json& merge : root.at("model").at("merges")) {
    merges.push_back(merge.is_array() ? merge.at(0).get<std::string>() + " " + merge.at(1).get<std::string>()
                                      : merge.get<std::string>());
  }
  return merges;
}

}  // namespace

std::map<std::string, std::string> gguf_tokenizer_files(const std::map<std::string, GgufValue>& metadata,
                                                        const std::string& path) {
  std::map<std::string, std::string> texts;
  const auto* tokens = find<std::vector<std::string>>(metadata, kTokens);
  if (tokens != nullptr) require_utf8(*tokens, kTokens, path);
  if (const auto* whole = find<std::string>(metadata, kWhole)) {
    texts["tokenizer.json"] = *whole;
  } else if (tokens != nullptr) {
    const auto* model = find<std::string>(metadata, kModel);
    if (model != nullptr && *model == "llama") return gguf_sentencepiece_files(metadata, *tokens, path);
    const auto* pre = find<std::string>(metadata, kPre);
    const std::optional<ScannerKind> kind = pattern_named(pre == nullptr ? "" : *pre);
    if (model == nullptr || *model != "gpt2" || !kind) {
      log_warn(str_cat(path, ": its tokenizer (", model == nullptr ? "?" : *model, ", ", pre == nullptr ? "?" : *pre,
                       ") is not supported; tokens are ids"));
      return texts;
    }
    const auto* types = find<std::vector<int64_t>>(metadata, kTypes);
    const auto* merges = find<std::vector<std::string>>(metadata, kMerges);
    if (types == nullptr || types->size() != tokens->size()) {
      fail_at(path, str_cat(kTypes, " has not one entry for each of ", tokens->size(), " tokens"));
    }
    if (merges == nullptr) fail_at(path, str_cat("the key '", kMerges, "' is missing"));
    require_utf8(*merges, kMerges, path);
    const auto* add = find<bool>(metadata, kAddBegin);
    const std::optional<int64_t> begin =
        add != nullptr && *add ? token_id(metadata, kBegin, *tokens, path) : std::nullopt;
    texts["tokenizer.json"] = build_tokenizer(*tokens, *types, *merges, *kind, begin);
  }
  if (texts.empty() || tokens == nullptr) return texts;
  const std::optional<int64_t> end = token_id(metadata, kEnd, *tokens, path);
  if (!end) return texts;
  texts["tokenizer_config.json"] = json{{"eos_token", (*tokens)[static_cast<size_t>(*end)]}}.dump(2) + "\n";
  return texts;
}

std::map<std::string, GgufValue> gguf_tokenizer_keys(const std::map<std::string, std::string>& texts, int64_t rows) {
  const auto text = texts.find("tokenizer.json"), model = texts.find(kSentencePieceName);
  if (text == texts.end() && model != texts.end()) {
    return gguf_sentencepiece_keys(model->second, {}, rows, adds_begin_token(texts));
  }
  if (text == texts.end()) {
    log_warn(
        "there is no tokenizer.json and no tokenizer.model: the GGUF file has no tokenizer, and llama.cpp will not "
        "open it");
    return {};
  }
  const json root = parse_strict_json(text->second, "tokenizer.json", 0, 64);
  std::map<std::string, GgufValue> keys;
  if (model != texts.end() && has_byte_fallback(root)) {
    keys = gguf_sentencepiece_keys(model->second, added_tokens(root), rows, adds_begin_token(texts));
    keys[kWhole] = text->second;
    return keys;
  }
  keys[kWhole] = text->second;
  const std::optional<ScannerKind> kind = pattern_of(root);
  if (!kind || !root.contains(json::json_pointer("/model/vocab")) ||
      !root.contains(json::json_pointer("/model/merges"))) {
    log_warn("tokenizer.json is no byte-level BPE with a known pattern: llama.cpp will not open the GGUF file");
    return keys;
  }
  std::vector<std::string> tokens;
  std::vector<int64_t> types;
  try {
    list_tokens(root, rows, tokens, types);
    keys[kMerges] = list_merges(root);
  } catch (const json::exception& error) {
    throw DataError(str_cat("tokenizer.json: ", error.what()));
  }
  keys[kModel] = std::string("gpt2");
  const auto named =
      std::find_if(kPatterns.begin(), kPatterns.end(), [&](const Pattern& p) { return p.kind == *kind; });
  keys[kPre] = std::string(named->name);
  const auto special = [&](const char* key, const char* name) -> std::string {
    const std::string token = named_token(texts, name);
    const auto place = std::find(tokens.begin(), tokens.end(), token);
    if (!token.empty() && place != tokens.end()) keys[key] = int64_t{place - tokens.begin()};
    return token;
  };
  special(kEnd, "eos_token");
  const std::string begin = special(kBegin, "bos_token");
  const auto processor = root.find("post_processor");
  keys[kAddBegin] = !begin.empty() && processor != root.end() && processor->dump().find(begin) != std::string::npos;
  keys[kTokens] = std::move(tokens);
  keys[kTypes] = std::move(types);
  return keys;
}

}  // namespace megatron
