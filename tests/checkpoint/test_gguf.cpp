// GGUF files against the `gguf` package (tests/golden/gguf/README.md).
#include <cmath>
#include <map>

#include "checkpoint/gguf.h"
#include "checkpoint/gguf_tokenizer.h"
#include "checkpoint/safetensors.h"
#include "tests/checkpoint/helpers.h"
#include "tokenizer/tokenizer.h"

using namespace megatron;
using namespace megatron::testing;

namespace {

const std::string kGolden = std::string(MEGATRON_SOURCE_DIR) + "/tests/golden/gguf/";

std::map<std::string, std::vector<float>> read_floats(const std::string& path) {
  std::map<std::string, std::vector<float>> tensors;
  const FileReader file(path);
  for (const SafetensorsEntry& entry : read_safetensors_header(file).entries) {
    std::vector<float>& values = tensors[entry.name];
    values.resize(static_cast<size_t>(entry.bytes) / sizeof(float));
    file.read_at(entry.offset, std::as_writable_bytes(std::span(values)));
  }
  return tensors;
}

std::vector<std::byte> stored_bytes(const FileReader& file, const GgufTensor& tensor) {
  std::vector<std::byte> bytes(static_cast<size_t>(tensor.bytes));
  file.read_at(tensor.offset, bytes);
  return bytes;
}

}  // namespace

TEST_CASE("gguf: every type is read as the gguf package reads it, bit for bit") {
  const auto expected = read_floats(kGolden + "types.safetensors");
  const FileReader file(kGolden + "types.gguf");
  const GgufHeader header = read_gguf_header(file);
  CHECK(header.tensors.size() == 8);
  for (const GgufTensor& tensor : header.tensors) {
    CAPTURE(tensor.name);
    CHECK(name_of(tensor.type) == tensor.name);
    CHECK(tensor.shape == std::vector<int64_t>{3, 512});
    const std::vector<std::byte> blocks = stored_bytes(file, tensor);
    std::vector<float> values(3 * 512);
    dequantize(tensor.type, blocks, values);
    CHECK(values == expected.at(tensor.name));
  }
}

TEST_CASE("gguf: F32, BF16 and Q8_0 are written as the gguf package writes them, bit for bit") {
  const std::vector<float> values = read_floats(kGolden + "types.safetensors").at("values");
  const FileReader file(kGolden + "types.gguf");
  for (const GgufTensor& tensor : read_gguf_header(file).tensors) {
    if (tensor.type != GgmlType::kF32 && tensor.type != GgmlType::kBF16 && tensor.type != GgmlType::kQ8_0) continue;
    CAPTURE(tensor.name);
    const std::vector<std::byte> expected = stored_bytes(file, tensor);
    std::vector<std::byte> blocks(expected.size());
    quantize(tensor.type, values, blocks);
    CHECK(blocks == expected);
  }
}

TEST_CASE("gguf: key-value pairs of all kinds") {
  const FileReader file(kGolden + "types.gguf");
  const auto metadata = read_gguf_header(file).metadata;
  CHECK(std::get<std::string>(metadata.at("general.architecture")) == "test");
  CHECK(std::get<int64_t>(metadata.at("test.large")) == int64_t{1} << 40);
  CHECK(std::get<bool>(metadata.at("test.truth")));
  CHECK(std::get<double>(metadata.at("test.half")) == 0.5);
  CHECK(std::get<std::vector<std::string>>(metadata.at("test.words")) == std::vector<std::string>{"a", "bc", ""});
  CHECK(std::get<std::vector<int64_t>>(metadata.at("test.numbers")) == std::vector<int64_t>{1, -2, 3});
}

TEST_CASE("gguf: what is written is read back") {
  const TempFolder folder;
  const std::map<std::string, GgufValue> metadata = {{"a.bool", true},
                                                     {"a.int", int64_t{7}},
                                                     {"a.negative", int64_t{-7}},
                                                     {"a.float", 0.25},
                                                     {"a.text", std::string("x")},
                                                     {"a.ints", std::vector<int64_t>{1, -1}},
                                                     {"a.floats", std::vector<double>{0.5, 2.0}},
                                                     {"a.texts", std::vector<std::string>{"", "yz"}}};
  GgufWriter writer(folder.file("x.gguf"), metadata,
                    {{"odd", GgmlType::kBF16, {3, 5}, 0, 0}, {"blocks", GgmlType::kQ8_0, {2, 64}, 0, 0}});
  const std::vector<std::byte> odd(30, std::byte{1}), blocks(4 * 34, std::byte{2});
  writer.append(odd);
  writer.append(blocks);
  writer.finish();
  const FileReader file(folder.file("x.gguf"));
  const GgufHeader header = read_gguf_header(file);
  CHECK(header.metadata == metadata);
  REQUIRE(header.tensors.size() == 2);
  CHECK(header.tensors[0].name == "odd");
  CHECK(header.tensors[0].shape == std::vector<int64_t>{3, 5});
  CHECK(stored_bytes(file, header.tensors[0]) == odd);
  CHECK(stored_bytes(file, header.tensors[1]) == blocks);
}

namespace {

/// The keys of a tokenizer whose tokens are the letters a to e (ids 0 to 4), ab (5), <s> (6) and a row without a token.
std::map<std::string, GgufValue> tokenizer_keys() {
  return {{"tokenizer.ggml.model", std::string("gpt2")},
          {"tokenizer.ggml.pre", std::string("llama-bpe")},
          {"tokenizer.ggml.tokens", std::vector<std::string>{"a", "b", "c", "d", "e", "ab", "<s>", "[PAD7]"}},
          {"tokenizer.ggml.token_type", std::vector<int64_t>{1, 1, 1, 1, 1, 1, 3, 5}},
          {"tokenizer.ggml.merges", std::vector<std::string>{"a b"}},
          {"tokenizer.ggml.bos_token_id", int64_t{6}},
          {"tokenizer.ggml.eos_token_id", int64_t{6}},
          {"tokenizer.ggml.add_bos_token", true}};
}

}  // namespace

TEST_CASE("gguf: a tokenizer of llama.cpp becomes a tokenizer.json, and the way back gives the same keys") {
  const TempFolder folder;
  const auto texts = gguf_tokenizer_files(tokenizer_keys(), "x.gguf");
  for (const auto& [name, text] : texts) overwrite(folder.file(name), text);
  TokenizerSpec spec;
  spec.tokenizer_type = "HuggingFaceTokenizer";
  spec.tokenizer_model = folder.file("tokenizer.json");
  const auto tokenizer = make_tokenizer(spec);
  CHECK(tokenizer->encode("cab") == std::vector<TokenId>{2, 5});
  CHECK(tokenizer->encode("a<s>") == std::vector<TokenId>{0, 6});
  CHECK(tokenizer->encode_with_special_tokens("cab") == std::vector<TokenId>{6, 2, 5});
  CHECK(tokenizer->eod() == 6);
  auto all = texts;
  all["tokenizer_config.json"] = R"({"eos_token": {"content": "<s>"}, "bos_token": "<s>"})";
  std::map<std::string, GgufValue> keys = gguf_tokenizer_keys(all, 8);
  CHECK(std::get<std::string>(keys.at("tokenizer.huggingface.json")) == all["tokenizer.json"]);
  keys.erase("tokenizer.huggingface.json");
  CHECK(keys == tokenizer_keys());
}

TEST_CASE("gguf: tokenizers that contradict themselves are refused, other kinds are left out") {
  const TempFolder quiet;
  const auto refused = [](const std::string& key, const GgufValue& value) {
    auto keys = tokenizer_keys();
    keys["tokenizer.ggml." + key] = value;
    try {
      gguf_tokenizer_files(keys, "x.gguf");
    } catch (const DataError& error) {
      return std::string(error.what());
    }
    return std::string("nothing was thrown");
  };
  CHECK(contains(refused("token_type", std::vector<int64_t>{1}), "one entry for each of 8 tokens"));
  CHECK(contains(refused("token_type", int64_t{1}), "one entry for each of 8 tokens"));
  CHECK(contains(refused("merges", int64_t{1}), "'tokenizer.ggml.merges' is missing"));
  CHECK(contains(refused("eos_token_id", int64_t{8}), "there is no token 8"));
  CHECK(contains(refused("eos_token_id", int64_t{-1}), "there is no token -1"));
  CHECK(contains(refused("bos_token_id", int64_t{1} << 40), "there is no token"));
  // Found by fuzzing: JSON cannot hold it.
  std::vector<std::string> tokens(8, "x");
  tokens[3] = "a\xa0";
  CHECK(contains(refused("tokens", tokens), "tokenizer.ggml.tokens: entry 3 is not UTF-8"));
  CHECK(contains(refused("merges", std::vector<std::string>{"a b", "\xc3 b"}), "merges: entry 1 is not UTF-8"));
  auto other = tokenizer_keys();
  other["tokenizer.ggml.model"] = std::string("bert");
  CHECK(gguf_tokenizer_files(other, "x.gguf").empty());
  other = tokenizer_keys();
  other["tokenizer.ggml.pre"] = std::string("unheard-of");
  CHECK(gguf_tokenizer_files(other, "x.gguf").empty());
  CHECK(gguf_tokenizer_files({}, "x.gguf").empty());
  CHECK(gguf_tokenizer_keys({{"tokenizer.json", R"({"pre_tokenizer": {"type": 5}, "model": {}})"}}, 8).size() == 1);
}

namespace {

/// The keys of a SentencePiece tokenizer, as llama.cpp's converter writes them.
std::map<std::string, GgufValue> sentencepiece_keys() {
  return {{"tokenizer.ggml.model", std::string("llama")},
          {"tokenizer.ggml.pre", std::string("default")},
          {"tokenizer.ggml.tokens",
           std::vector<std::string>{"<unk>", "<s>", "</s>", "\u2581", "a", "b", "\u2581a", "ab", "[PAD8]"}},
          {"tokenizer.ggml.scores", std::vector<double>{0, 0, 0, -3, -4, -5, -1, -0.5, 0}},
          {"tokenizer.ggml.token_type", std::vector<int64_t>{2, 3, 3, 1, 1, 1, 1, 1, 5}},
          {"tokenizer.ggml.unknown_token_id", int64_t{0}},
          {"tokenizer.ggml.bos_token_id", int64_t{1}},
          {"tokenizer.ggml.eos_token_id", int64_t{2}},
          {"tokenizer.ggml.add_bos_token", true},
          {"tokenizer.ggml.add_space_prefix", true},
          {"tokenizer.ggml.remove_extra_whitespaces", false}};
}

}  // namespace

TEST_CASE("gguf: a SentencePiece tokenizer becomes a tokenizer.model, and the way back gives the same keys") {
  const TempFolder folder;
  const auto texts = gguf_tokenizer_files(sentencepiece_keys(), "x.gguf");
  for (const auto& [name, text] : texts) overwrite(folder.file(name), text);
  TokenizerSpec spec;
  spec.tokenizer_type = "Llama2Tokenizer";
  spec.tokenizer_model = folder.path();
  const auto tokenizer = make_tokenizer(spec);
  CHECK(tokenizer->encode("ab a") == std::vector<TokenId>{3, 7, 6});  // ab comes before a mark and an a
  CHECK(tokenizer->encode_with_special_tokens("a") == std::vector<TokenId>{1, 6});
  CHECK(tokenizer->eod() == 2);
  CHECK(gguf_tokenizer_keys(texts, 9) == sentencepiece_keys());
  // Tokens that a tokenizer.json adds behind the pieces; one of another kind is preferred to a model beside it.
  auto more = texts;
  more["tokenizer.json"] = R"({"model": {"byte_fallback": true}, "added_tokens": [)"
                           R"({"id": 1, "content": "<s>"}, {"id": 9, "content": "<pad>", "special": true}]})";
  const auto keys = gguf_tokenizer_keys(more, 11);
  CHECK(std::get<std::vector<std::string>>(keys.at("tokenizer.ggml.tokens"))[9] == "<pad>");
  CHECK(std::get<std::vector<int64_t>>(keys.at("tokenizer.ggml.token_type"))[9] == 3);
  CHECK(std::get<std::vector<int64_t>>(keys.at("tokenizer.ggml.token_type"))[10] == 5);
  CHECK(keys.contains("tokenizer.huggingface.json"));
  more["tokenizer.json"] = gguf_tokenizer_files(tokenizer_keys(), "x.gguf").at("tokenizer.json");
  CHECK(std::get<std::string>(gguf_tokenizer_keys(more, 9).at("tokenizer.ggml.model")) == "gpt2");
  auto silent = sentencepiece_keys();
  silent["tokenizer.ggml.add_bos_token"] = false;
  CHECK(gguf_tokenizer_keys(gguf_tokenizer_files(silent, "x.gguf"), 9) == silent);
}

TEST_CASE("gguf: SentencePiece tokenizers that contradict themselves are refused") {
  const auto refused = [](const std::string& key, const GgufValue& value) {
    auto keys = sentencepiece_keys();
    keys["tokenizer.ggml." + key] = value;
    try {
      gguf_tokenizer_files(keys, "x.gguf");
    } catch (const DataError& error) {
      return std::string(error.what());
    }
    return std::string("nothing was thrown");
  };
  CHECK(contains(refused("scores", std::vector<double>{1}), "one entry for each of 9 tokens"));
  CHECK(contains(refused("scores", std::vector<int64_t>(9)), "one entry for each of 9 tokens"));
  CHECK(contains(refused("scores", std::vector<double>(9, NAN)), "has no finite score"));
  CHECK(contains(refused("token_type", int64_t{1}), "one entry for each of 9 tokens"));
  CHECK(contains(refused("token_type", std::vector<int64_t>(9, 7)), "unknown type 7"));
  CHECK(contains(refused("token_type", std::vector<int64_t>(9, 1)), "has 0 unknown pieces"));
  CHECK(contains(refused("eos_token_id", int64_t{9}), "there is no token 9"));
}
