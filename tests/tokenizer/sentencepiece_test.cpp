// SentencePiece models and tokenizer.json files of LLaMA 2's kind: the ids of the libraries; broken files are refused.
#include <functional>

#include "base/error.h"
#include "base/philox.h"
#include "base/strings.h"
#include "tests/catch.h"
#include "tests/tokenizer/golden.h"
#include "tokenizer/sentencepiece_tokenizer.h"

namespace megatron {
namespace {

using test::golden_json;
using test::golden_path;
using Ids = std::vector<TokenId>;

std::string model_path(const std::string& name) {
  return golden_path("sentencepiece/" + name);
}

std::unique_ptr<Tokenizer> open_model(const std::string& path, const std::string& type = "SentencePieceTokenizer") {
  TokenizerSpec spec;
  spec.tokenizer_type = type;
  spec.tokenizer_model = path;
  return make_tokenizer(spec);
}

std::string refusal(const std::function<void()>& read) {
  try {
    read();
  } catch (const DataError& error) {
    return error.what();
  }
  return "nothing was thrown";
}

void check_against(const Tokenizer& tokenizer, const nlohmann::json& golden, const nlohmann::json& texts) {
  for (size_t i = 0; i < texts.size(); ++i) {
    INFO("text " << i << ": " << texts[i].dump(-1, ' ', true));
    const Ids ids = golden["ids"][i].get<Ids>();
    CHECK(tokenizer.encode(texts[i].get<std::string>()) == ids);
    const bool has_special = std::count_if(ids.begin(), ids.end(), [](TokenId id) { return id < 3; }) > 0;
    if (!has_special) CHECK(tokenizer.decode(ids) == golden["decoded"][i].get<std::string>());
  }
}

}  // namespace

TEST_CASE("sentencepiece: BPE and unigram models give the library's ids and texts") {
  const nlohmann::json golden = golden_json("sentencepiece/encodings.json");
  REQUIRE(golden["texts"].size() > 250);
  REQUIRE(golden["models"].size() == 5);
  for (const auto& [name, model] : golden["models"].items()) {
    INFO("model " << name);
    const auto tokenizer = open_model(model_path(name + ".model"));
    CHECK(tokenizer->vocab_size() == model["vocab_size"]);
    CHECK(tokenizer->eod().value_or(-1) == model["eos"]);
    CHECK(tokenizer->pad().value_or(-1) == model["pad"]);
    check_against(*tokenizer, model, golden["texts"]);
    // Written and read again it is the same.
    const SentencePieceDefinition d = read_sentencepiece_model(model_path(name + ".model"));
    const SentencePieceTokenizer again(parse_sentencepiece_model(sentencepiece_model_bytes(d), "again"));
    CHECK(again.fingerprint() == tokenizer->fingerprint());
  }
}

TEST_CASE("sentencepiece: a tokenizer.json with byte fallback gives the library's ids and texts") {
  const nlohmann::json golden = golden_json("sentencepiece/encodings.json");
  const nlohmann::json base = golden_json("sentencepiece/prepend.json");
  REQUIRE(golden["json"].size() == 4);
  for (const auto& [name, variant] : golden["json"].items()) {
    INFO("variant " << name);
    nlohmann::json document = base;
    for (const auto& [key, part] : variant["patch"].items()) document[key] = part;
    const test::TemporaryFolder folder;
    const auto tokenizer = test::load(folder.write("tokenizer.json", document.dump()));
    CHECK(tokenizer->eod() == TokenId{2});
    CHECK(tokenizer->encode_with_special_tokens("The ship") == variant["special"].get<Ids>());
    check_against(*tokenizer, variant, golden["texts"]);
  }
}

TEST_CASE("sentencepiece: bytes that are no UTF-8 come back, and prompts begin as the type says") {
  const auto tokenizer = open_model(model_path("llama.model"));
  for (const std::string text : {"\xff", "a\xc3", "\xe2\x96 b", "x\x80y\xf8", std::string("\0\xfe", 2).c_str()}) {
    CHECK(tokenizer->decode(tokenizer->encode(text)) == text);
  }
  const Ids plain = tokenizer->encode("The ship");
  CHECK(tokenizer->encode_with_special_tokens("The ship") == plain);
  Ids begun = open_model(model_path("llama.model"), "Llama2Tokenizer")->encode_with_special_tokens("The ship");
  REQUIRE_FALSE(begun.empty());
  CHECK(begun[0] == 1);
  begun.erase(begun.begin());
  CHECK(begun == plain);
  CHECK(tokenizer->token_bytes(1) == "<s>");
  SentencePieceDefinition d = read_sentencepiece_model(model_path("llama.model"));
  d.begin.reset();
  const test::TemporaryFolder folder;
  folder.write("tokenizer.model", sentencepiece_model_bytes(d));
  CHECK(open_model(folder.path())->encode_with_special_tokens("The ship") == plain);
  CHECK(refusal([&] { open_model(folder.path(), "Llama2Tokenizer"); }).find("has no begin piece") != std::string::npos);
  CHECK(refusal([&] { tokenizer->token_bytes(-1); }).find("outside the vocabulary") != std::string::npos);
}

TEST_CASE("sentencepiece: broken models are refused by file and place") {
  const std::string good = read_file(model_path("llama.model"));
  const auto change = [&](const std::function<void(SentencePieceDefinition&)>& edit) {
    SentencePieceDefinition d = parse_sentencepiece_model(good, "f");
    edit(d);
    return sentencepiece_model_bytes(d);
  };
  const auto charsmap = [&](const std::string& bytes) { return change([&](auto& d) { d.charsmap = bytes; }); };
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "there are no pieces"},
      {"\x0a", "byte 1: 1 bytes are expected, 0 are left"},
      {std::string("\x0a\xff\xff\xff\xff\x0f", 6), "byte 6: 4294967295 bytes are expected"},
      {std::string(11, '\xff'), "more than ten bytes"},
      {std::string("\x00\x00", 2), "a field has no number"},
      {"\x0b", "unknown type of field 3"},
      {std::string("\x08\x01", 2), "a part of the model has another type"},
      {change([](auto& d) { d.pieces[9].text.clear(); }), "piece 9 is empty"},
      {change([](auto& d) { d.pieces[300].text = d.pieces[301].text; }), "piece 301 has the text of another one"},
      {change([](auto& d) { d.pieces[300].score = NAN; }), "piece 300 has no finite score"},
      {change([](auto& d) { d.pieces[5].text = "<0x0g>"; }), "piece 5 is said to be a byte"},
      {change([](auto& d) { d.pieces[5].kind = PieceKind::kNormal; }), "has 255 pieces for bytes"},
      {change([](auto& d) { d.pieces[0].kind = PieceKind::kNormal; }), "has 0 unknown pieces"},
      {change([](auto& d) { d.pieces[1].kind = PieceKind::kUnknown; }), "has 2 unknown pieces"},
      {change([](auto& d) { d.pieces[9].kind = static_cast<PieceKind>(7); }), "unknown kind of piece 7"},
      {change([](auto& d) { d.algorithm = static_cast<SentencePieceDefinition::Algorithm>(4); }), "char (4)"},
      {charsmap("abc"), "precompiled_charsmap"},
      {charsmap(std::string("\x08\0\0\0\0\0\0\0", 8)), "precompiled_charsmap"},
      {charsmap(std::string("\x03\0\0\0abcd\0", 9)), "precompiled_charsmap"},
      {good + std::string("\x2a\x03\x12\x01x", 5), "denormalizer_spec"}};
  for (const auto& [bytes, expected] : cases) {
    const std::string message =
        refusal([&] { SentencePieceTokenizer(parse_sentencepiece_model(bytes, "f")).encode("a"); });
    INFO(message);
    CHECK(message.find("f: ") == 0);
    CHECK(message.find(expected) != std::string::npos);
  }
  // A trie that points outside is found when it is used.
  std::string trie("\x08\0\0\0", 4);
  const uint32_t root = 1 << 10, leaf = 'a' | 1 << 8 | 500U << 10;
  trie.append(reinterpret_cast<const char*>(&root), 4).append(reinterpret_cast<const char*>(&leaf), 4).append("x\0", 2);
  CHECK(refusal([&] {
          for (int c = 0; c < 128; ++c) {
            SentencePieceTokenizer(parse_sentencepiece_model(charsmap(trie), "f"))
                .encode(std::string(1, static_cast<char>(c)));
          }
        }) == "nothing was thrown");  // no byte reaches the leaf: its place is not its label's
}

TEST_CASE("sentencepiece: truncated and changed models are read or refused, never more") {
  const std::string good = read_file(model_path("suffix.model"));
  for (size_t size = 0; size < good.size(); size += 37) {
    refusal([&] { SentencePieceTokenizer(parse_sentencepiece_model(good.substr(0, size), "f")); });
  }
  for (uint64_t round = 0; round < 500; ++round) {
    std::string bytes = good;
    for (uint64_t edit = 0; edit < 3; ++edit) {
      const auto at = static_cast<size_t>(philox_uniform(round, edit * 2) * static_cast<double>(bytes.size()));
      bytes[at] = static_cast<char>(philox_uniform(round, edit * 2 + 1) * 256);
    }
    refusal([&] {
      const SentencePieceTokenizer tokenizer(parse_sentencepiece_model(bytes, "f"));
      tokenizer.decode(tokenizer.encode("The ship 123 \xff <sep>"));
    });
  }
}

TEST_CASE("sentencepiece: what a tokenizer.json with byte fallback may not hold is named") {
  const nlohmann::json base = golden_json("sentencepiece/prepend.json");
  const std::vector<std::pair<nlohmann::json, std::string>> cases = {
      {{{"model", {{"type", "Unigram"}}}}, "the model type Unigram with byte_fallback"},
      {{{"model", {{"unk_token", "nobody"}}}}, "'nobody' is not in the vocabulary"},
      {{{"model", {{"dropout", 0.1}}}}, "dropout"},
      {{{"model", {{"vocab", {{"new", 5000}}}}}}, "no token has the id 700"},
      {{{"model", {{"vocab", {{"new", 5}}}}}}, "the id 5 is that of"},
      {{{"model", {{"vocab", {{"new", -1}}}}}}, "outside 0 to"},
      {{{"model", {{"merges", {"a b c"}}}}}, "is not in the vocabulary"},
      {{{"normalizer", {{"type", "NFC"}, {"normalizers", nullptr}}}}, "the normalizer NFC"},
      {{{"normalizer", nullptr}}, "marks spaces"},
      {{{"pre_tokenizer", {{"type", "Whitespace"}}}}, "the pre-tokenizer Whitespace"},
      {{{"decoder", {{"type", "WordPiece"}, {"decoders", nullptr}}}}, "the decoder WordPiece"},
      {{{"post_processor", {{"special_tokens", {{"<s>", {{"ids", {9999}}}}}}}}}, "names id 9999"}};
  for (const auto& [patch, expected] : cases) {
    nlohmann::json document = base;
    document.merge_patch(patch);
    const test::TemporaryFolder folder;
    const std::string path = folder.write("tokenizer.json", document.dump());
    const std::string message = refusal([&] { test::load(path); });
    INFO(message);
    CHECK(message.find(path) == 0);
    CHECK(message.find(expected) != std::string::npos);
  }
}

}  // namespace megatron
