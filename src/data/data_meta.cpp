#include "data/data_meta.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/strings.h"
#include "data/files.h"

namespace megatron {
namespace {

constexpr int kVersion = 1;

// 64-bit numbers are written as hexadecimal text: many JSON readers keep only 53 bits of a number.
std::string hex(uint64_t value) {
  char text[24];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
  return text;
}

uint64_t unhex(const std::string& text) {
  size_t used = 0;
  const uint64_t value = std::stoull(text, &used, 16);
  if (used != text.size()) throw std::invalid_argument(text);
  return value;
}

}  // namespace

TokenizerIdentity identity_of(const Tokenizer& tokenizer) {
  return {tokenizer.fingerprint(), tokenizer.vocab_size(), tokenizer.eod()};
}

std::string meta_path(const std::string& prefix) {
  return prefix + ".meta.json";
}

std::optional<DataMeta> read_meta(const std::string& prefix) {
  const std::string path = meta_path(prefix);
  if (!file_exists(path)) return std::nullopt;
  InputStream input(path);
  std::string text;
  while (input.append_to(text, 1 << 16)) {
  }
  try {
    const nlohmann::json json = nlohmann::json::parse(text);
    if (json.at("version").get<int>() != kVersion) {
      throw DataError(str_cat(path, ": version ", json.at("version").dump(), ", this program knows ", kVersion));
    }
    DataMeta meta;
    meta.tokenizer.fingerprint = unhex(json.at("tokenizer_fingerprint").get<std::string>());
    meta.tokenizer.vocab_size = json.at("vocab_size").get<int64_t>();
    if (!json.at("eod").is_null()) meta.tokenizer.eod = json.at("eod").get<TokenId>();
    meta.tokens = json.at("tokens").get<int64_t>();
    meta.sequences = json.at("sequences").get<int64_t>();
    meta.documents = json.at("documents").get<int64_t>();
    meta.max_token_id = json.at("max_token_id").get<TokenId>();
    meta.bin_hash = unhex(json.at("bin_hash").get<std::string>());
    meta.idx_hash = unhex(json.at("idx_hash").get<std::string>());
    return meta;
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw DataError(str_cat(path, ": damaged side file: ", error.what(), "\nrun preprocess again"));
  }
}

std::string format_meta(const DataMeta& meta) {
  nlohmann::ordered_json json;
  json["version"] = kVersion;
  json["tokenizer_fingerprint"] = hex(meta.tokenizer.fingerprint);
  json["vocab_size"] = meta.tokenizer.vocab_size;
  json["eod"] = meta.tokenizer.eod ? nlohmann::ordered_json(*meta.tokenizer.eod) : nlohmann::ordered_json(nullptr);
  json["tokens"] = meta.tokens;
  json["sequences"] = meta.sequences;
  json["documents"] = meta.documents;
  json["max_token_id"] = meta.max_token_id;
  json["bin_hash"] = hex(meta.bin_hash);
  json["idx_hash"] = hex(meta.idx_hash);
  return json.dump(2) + "\n";
}

}  // namespace megatron
