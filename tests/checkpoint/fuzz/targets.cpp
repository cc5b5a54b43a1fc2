#include "tests/checkpoint/fuzz/targets.h"

#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>
#include <span>

#include "base/file_io.h"
#include "base/hash.h"
#include "base/strings.h"
#include "checkpoint/gguf_tokenizer.h"
#include "checkpoint/huggingface_config.h"
#include "checkpoint/manifest.h"
#include "checkpoint/outer_model.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/shard_exchange.h"
#include "checkpoint/strict_json.h"
#include "tokenizer/sentencepiece_tokenizer.h"
#include "tokenizer/tokenizer_json_parts.h"

namespace megatron::fuzz {
namespace {

const char* const kFamilies[] = {"gpt2", "llama2", "llama3", "llama_bias", "mistral", "qwen2", "qwen25", "qwen3"};

FileReader in_memory(std::string_view bytes) {
  return {"f", std::as_bytes(std::span(bytes))};
}

// ---------------------------------------------------------------------------------------------------- safetensors

std::string safetensors_header() {
  std::vector<SafetensorsEntry> entries = {{"a", "F32", {2}}, {"b", "BF16", {2, 2}}, {"empty", "I64", {0, 3}}};
  return make_safetensors_header(entries, {{"format", "pt"}});
}

/// With the right length of the header, so that what is behind it is reached.
std::string sealed_safetensors(std::string_view header) {
  const uint64_t length = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes.append(header).append(16, 'd');
}

// ----------------------------------------------------------------------------------------------------------- GGUF

class GgufBytes {
 public:
  template <typename T>
  void number(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void text(std::string_view value) {
    number<uint64_t>(value.size());
    bytes_ += value;
  }
  template <typename T>
  void pair(std::string_view key, uint32_t type, T value) {
    text(key);
    number(type);
    number(value);
  }
  void pair(std::string_view key, std::string_view value) {
    text(key);
    number<uint32_t>(8);
    text(value);
  }
  void texts(std::string_view key, const std::vector<std::string>& values) {
    text(key);
    number<uint32_t>(9);
    number<uint32_t>(8);
    number<uint64_t>(values.size());
    for (const std::string& value : values) text(value);
  }
  void tensor(std::string_view name, const std::vector<uint64_t>& columns_first, uint64_t& offset) {
    text(name);
    number<uint32_t>(static_cast<uint32_t>(columns_first.size()));
    uint64_t bytes = 4;
    for (const uint64_t extent : columns_first) {
      number(extent);
      bytes *= extent;
    }
    number<uint32_t>(0);  // F32
    number(offset);
    offset += (bytes + 31) / 32 * 32;
  }
  std::string finish(uint64_t data_bytes) {
    bytes_.resize((bytes_.size() + 31) / 32 * 32 + data_bytes, '\0');
    return bytes_;
  }

 private:
  std::string bytes_;
};

const std::vector<std::string> kTokens = {"<|endoftext|>", "a", "b", "c", "ab", "abc", "\u0120", "\u0120a"};

/// A whole LLaMA of one layer and width 8, with a byte-level tokenizer or a SentencePiece one.
std::string gguf_model(bool byte_level) {
  GgufBytes file;
  file.number<uint32_t>(0x46554747);
  file.number<uint32_t>(3);
  file.number<uint64_t>(12);  // tensors
  file.number<uint64_t>(17);  // pairs
  file.pair("general.architecture", "llama");
  file.pair("general.alignment", 4, uint32_t{32});
  for (const auto& [key, value] : {std::pair{"block_count", 1U},
                                   {"embedding_length", 8U},
                                   {"feed_forward_length", 8U},
                                   {"attention.head_count", 2U},
                                   {"attention.head_count_kv", 1U},
                                   {"context_length", 16U}}) {
    file.pair(str_cat("llama.", key), 4, value);
  }
  file.pair("llama.attention.layer_norm_rms_epsilon", 6, 1e-5F);
  file.pair("llama.rope.freq_base", 6, 10000.0F);
  file.pair("tokenizer.ggml.model", byte_level ? "gpt2" : "llama");
  file.pair("tokenizer.ggml.pre", "gpt-2");
  file.texts("tokenizer.ggml.tokens", kTokens);
  if (byte_level) {
    file.texts("tokenizer.ggml.merges", {"a b", "ab c", "\u0120 a"});
  } else {
    file.text("tokenizer.ggml.scores");
    file.number<uint32_t>(9);
    file.number<uint32_t>(6);
    file.number<uint64_t>(kTokens.size());
    for (size_t i = 0; i < kTokens.size(); ++i) file.number(-static_cast<float>(i));
  }
  file.text("tokenizer.ggml.token_type");
  file.number<uint32_t>(9);
  file.number<uint32_t>(5);
  file.number<uint64_t>(kTokens.size());
  for (size_t i = 0; i < kTokens.size(); ++i) file.number<int32_t>(i > 0 ? 1 : byte_level ? 3 : 2);
  file.pair("tokenizer.ggml.eos_token_id", 4, uint32_t{0});
  file.pair("tokenizer.ggml.add_bos_token", 7, uint8_t{0});
  uint64_t offset = 0;
  file.tensor("token_embd.weight", {8, 8}, offset);
  file.tensor("output_norm.weight", {8}, offset);
  file.tensor("output.weight", {8, 8}, offset);
  for (const char* name : {"attn_norm", "ffn_norm"}) file.tensor(str_cat("blk.0.", name, ".weight"), {8}, offset);
  for (const char* name : {"attn_q", "attn_output", "ffn_gate", "ffn_up", "ffn_down"}) {
    file.tensor(str_cat("blk.0.", name, ".weight"), {8, 8}, offset);
  }
  for (const char* name : {"attn_k", "attn_v"}) file.tensor(str_cat("blk.0.", name, ".weight"), {8, 4}, offset);
  return file.finish(offset);
}

/// What opening a model costs in checks of its configuration leaves few runs for the rest: see json_targets().
void read_gguf(std::string_view bytes) {
  gguf_tokenizer_files(read_gguf_header(in_memory(bytes)).metadata, "f");
}

// -------------------------------------------------------------------------------------------------- SentencePiece

/// Text for a tokenizer made of what a file says: letters, spaces, digits, more than ASCII, and no UTF-8.
constexpr std::string_view kText = "abc ab  a 1234 <|endoftext|> b\u00e4\u1e9b\u0323\xff\n\t c";

void read_sentencepiece(std::string_view bytes) {
  const SentencePieceTokenizer tokenizer(parse_sentencepiece_model(bytes, "f"));
  tokenizer.decode(tokenizer.encode(kText));
}

/// A double array that makes 'a' an 'A', and what is behind it.
std::string charsmap() {
  std::vector<uint32_t> units(100);
  units[0] = 1 << 10;                       // children from 1 on
  units[1 ^ 'a'] = 'a' | 1 << 8 | 2 << 10;  // has a value, at 2 from here
  units[1 ^ 'a' ^ 2] = 0x80000000;          // the text at 0
  const auto size = static_cast<uint32_t>(units.size() * sizeof(uint32_t));
  std::string bytes(reinterpret_cast<const char*>(&size), sizeof size);
  bytes.append(reinterpret_cast<const char*>(units.data()), size);
  return bytes + "A" + '\0';
}

std::vector<std::string> sentencepiece_models() {
  SentencePieceDefinition d;
  d.pieces = {{"<unk>", 0, PieceKind::kUnknown}, {"<s>", 0, PieceKind::kControl}, {"</s>", 0, PieceKind::kControl}};
  d.begin = 1;
  d.end = 2;
  float score = 0;
  for (const char* text : {"b", "c", "1", "\u2581", "bc", "12", "\u2581b", "abc", "A", "Ab", "A"}) {
    d.pieces.push_back({text, --score, PieceKind::kNormal});
  }
  d.pieces.back() = {"<|end", 0, PieceKind::kUserDefined};
  d.pieces[7].kind = PieceKind::kUnused;
  std::vector<std::string> models = {sentencepiece_model_bytes(d)};
  d.algorithm = SentencePieceDefinition::Algorithm::kUnigram;
  d.charsmap = charsmap();
  models.push_back(sentencepiece_model_bytes(d));
  return models;
}

// ----------------------------------------------------------------------------------------------------------- JSON

std::string manifest_text() {
  Manifest m;
  m.sequence = 3;
  m.iteration = 10;
  m.chunk_bytes = 16;
  m.program = "0.1";
  m.state = {{"loss", 1.5}, {"name", std::string("x")}, {"on", true}, {"n", int64_t{-4}}};
  m.files = {{"s.safetensors", 104, 64, 1}, {"resolved.yaml", 5, 0, 2}};
  StoredTensor a{{"a", StateKind::kParameter, DType::kF32, {2, 4}}, {}};
  a.pieces.push_back({{{0, 0}, {2, 2}}, 0, 64, 16, {7}});
  a.pieces.push_back({{{0, 2}, {2, 2}}, 0, 80, 16, {8}});
  StoredTensor b{{"b", StateKind::kOptimizer, DType::kI64, {}}, {}};
  b.pieces.push_back({{{}, {}}, 0, 96, 8, {9}});
  m.tensors = {a, b};
  return print_manifest(m);
}

/// With the right checksum in its first line, so that what is behind it is reached.
void read_sealed_manifest(std::string_view body) {
  const std::string sealed = str_cat("{\"checksum\": \"xxh64:", hex64(xxh64(body)), "\",\n", body);
  const std::string printed = print_manifest(parse_manifest(sealed, "f"));
  if (print_manifest(parse_manifest(printed, "f")) != printed) std::abort();
}

void read_config(std::string_view text) {
  const ModelDescription description = read_huggingface_config(parse_strict_json(text, "f", 0, 16), "f");
  complete_config(description, description.dtype.value_or("fp32"), "f");
}

void read_tokenizer(std::string_view text) {
  const nlohmann::json document = parse_json_text(std::string(text), "/nowhere/f");
  if (has_byte_fallback(document)) {
    const SentencePieceTokenizer tokenizer(sentencepiece_definition(document, "/nowhere/f"));
    tokenizer.decode(tokenizer.encode_with_special_tokens(kText));
  } else {
    const BpeTokenizer tokenizer(bpe_definition(document, "/nowhere/f"));
    tokenizer.decode(tokenizer.encode_with_special_tokens(kText));
  }
}

std::vector<std::string> tokenizer_seeds() {
  using nlohmann::json;
  json vocab;
  for (size_t i = 1; i < kTokens.size(); ++i) vocab[kTokens[i]] = i;
  const json added = {{"id", 0},         {"content", kTokens[0]}, {"special", true},    {"single_word", false},
                      {"lstrip", false}, {"rstrip", true},        {"normalized", false}};
  const json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}};
  json root = {
      {"added_tokens", {added}},
      {"normalizer", {{"type", "NFC"}}},
      {"pre_tokenizer", byte_level},
      {"decoder", byte_level},
      {"post_processor", nullptr},
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"a b", "ab c", "\u0120 a"}}, {"unk_token", "b"}}}};
  std::vector<std::string> seeds = {root.dump()};
  const json special = {{"SpecialToken", {{"id", "x"}}}}, sequence = {{"Sequence", {{"id", "A"}}}};
  root["post_processor"] = {
      {"type", "TemplateProcessing"}, {"single", {special, sequence}}, {"special_tokens", {{"x", {{"ids", {0}}}}}}};
  root["model"]["ignore_merges"] = true;
  const json split = {{"type", "Split"},
                      {"pattern", {{"Regex", "(?i:'s)|[^\\r\\n\\p{L}]?\\p{L}+| ?\\d{1,3}(?=x)|\\s+(?!\\S)"}}},
                      {"behavior", "Isolated"},
                      {"invert", false}};
  const json digits = {{"type", "Digits"}, {"individual_digits", true}};
  root["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {split, digits, byte_level}}};
  seeds.push_back(root.dump());
  vocab = {{"<unk>", 0}, {"\u2581", 257}, {"a", 258}, {"\u2581a", 259}};
  for (int byte = 0; byte < 256; ++byte) {
    constexpr char kDigits[] = "0123456789ABCDEF";
    vocab[str_cat("<0x", std::string(1, kDigits[byte / 16]), std::string(1, kDigits[byte % 16]), ">")] = byte + 1;
  }
  root["model"] = {
      {"type", "BPE"}, {"vocab", vocab}, {"merges", {"\u2581 a"}}, {"unk_token", "<unk>"}, {"byte_fallback", true}};
  root["added_tokens"] = json::array();
  root["post_processor"] = nullptr;
  root["pre_tokenizer"] = nullptr;
  root["normalizer"] = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}};
  root["decoder"] = nullptr;
  seeds.push_back(root.dump());
  return seeds;
}

}  // namespace

std::vector<Target> header_targets() {
  const std::string header = safetensors_header();
  return {{"safetensors",
           [](std::string_view bytes) { read_safetensors_header(in_memory(bytes)); },
           {header + std::string(16, 'd')}},
          {"safetensors JSON",
           [](std::string_view bytes) { read_safetensors_header(in_memory(sealed_safetensors(bytes))); },
           {header.substr(8)}},
          {"GGUF", read_gguf, {gguf_model(true), gguf_model(false)}},
          {"SentencePiece", read_sentencepiece, sentencepiece_models()}};
}

std::vector<Target> json_targets() {
  const std::string manifest = manifest_text();
  const ShardSet shards{{{"s", 104, 64, 1}}, {{{"a", StateKind::kParameter, DType::kF32, {2}}, {}}}};
  std::vector<std::string> configs;
  for (const char* family : kFamilies) {
    configs.push_back(read_file(str_cat(MEGATRON_SOURCE_DIR, "/tests/golden/huggingface/", family, "/config.json")));
  }
  const auto export_tokenizer = [](std::string_view text) {
    gguf_tokenizer_keys({{"tokenizer.json", std::string(text)},
                         {"tokenizer_config.json", R"({"eos_token": "a", "bos_token": {"content": "b"}})"}},
                        9);
  };
  return {{"manifest", [](std::string_view text) { parse_manifest(text, "f"); }, {manifest}},
          {"manifest body", read_sealed_manifest, {manifest.substr(manifest.find('\n') + 1)}},
          {"shards", [](std::string_view text) { decode_shards(std::string(text)); }, {encode_shards(shards)}},
          {"config.json", read_config, configs},
          {"model of a GGUF file",
           [](std::string_view bytes) { open_gguf(in_memory(bytes)); },
           {gguf_model(true), gguf_model(false)}},
          {"tokenizer.json", read_tokenizer, tokenizer_seeds()},
          {"tokenizer.json to GGUF", export_tokenizer, tokenizer_seeds()}};
}

}  // namespace megatron::fuzz
