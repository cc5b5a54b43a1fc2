// Damaged and unsupported files end with one message that names file, place and remedy; nothing crashes.
#include <random>

#include "base/error.h"
#include "tests/catch.h"
#include "tests/tokenizer/golden.h"
#include "tokenizer/tokenizer_files.h"

namespace megatron {
namespace {

using nlohmann::json;

/// Message of the DataError, without the folder's name; anything else fails the test.
std::string message_of(const std::string& text, const std::string& config = "") {
  const test::TemporaryFolder folder;
  const std::string path = folder.write("tokenizer.json", text);
  if (!config.empty()) folder.write("tokenizer_config.json", config);
  try {
    test::load(path);
  } catch (const DataError& error) {
    std::string message = error.what();
    REQUIRE(message.rfind(folder.path() + "/", 0) == 0);
    return message.substr(folder.path().size() + 1);
  }
  return "no error";
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != text.npos;
}

json base() {
  return test::golden_json("tokenizer.json");
}

struct Fault {
  std::string pointer;  ///< where a value is put
  json value;
  std::string place;  ///< what the message begins with, behind the file name
  std::string words;  ///< and what it says
};

TEST_CASE("each fault of a tokenizer.json is named") {
  const std::vector<Fault> faults = {
      {"/model/type", "WordPiece", "/model/type", "the model type WordPiece is not supported"},
      {"/model/vocab", json::array(), "/model/vocab", "must be an object"},
      {"/model/vocab/a", "x", "/model/vocab/a", "must be an integer, is string"},
      {"/model/vocab/a", -1, "/model/vocab/a", "outside 0 to"},
      {"/model/vocab/a", 1.5, "/model/vocab/a", "must be an integer"},
      {"/model/vocab/a", uint64_t{18446744073709551615u}, "/model/vocab/a", "too large"},
      {"/model/vocab/a", 17, "/model/vocab/", "id 17 belongs to two tokens"},
      {"/model/vocab/a", 99999999, "/model/vocab/a", "outside 0 to"},
      {"/model/vocab/a", 999999, "/model", "the highest id is 999999, but there are only"},
      {"/model/merges", "a b", "/model/merges", "must be an array"},
      {"/model/merges/7", "a b c", "/model/merges/7", "two tokens with one space"},
      {"/model/merges/7", "ab", "/model/merges/7", "two tokens with one space"},
      {"/model/merges/7", "a ", "/model/merges/7", "two tokens with one space"},
      {"/model/merges/7", 7, "/model/merges/7", "must be a string"},
      {"/model/merges/7", json::array({"a"}), "/model/merges/7", "two halves"},
      {"/model/merges/7", json::array({"a", 1}), "/model/merges/7/1", "must be a string"},
      {"/model/merges/7", "a nothere", "/model/merges/7", "merges 'nothere', which is not in the vocabulary"},
      {"/model/merges/7", "q q", "/model/merges/7", "makes 'qq', which is not in the vocabulary"},
      {"/model/dropout", 0.1, "/model/dropout", "not supported"},
      {"/model/dropout", "x", "/model/dropout", "not supported"},
      {"/model/byte_fallback", true, "/model", "has no 'unk_token'"},
      {"/model/byte_fallback", 1, "/model/byte_fallback", "must be true or false"},
      {"/model/unk_token", "<nothere>", "/model/unk_token", "not in the vocabulary"},
      {"/model/end_of_word_suffix", "</w>", "/model/end_of_word_suffix", "not supported"},
      {"/model/continuing_subword_prefix", "##", "/model/continuing_subword_prefix", "not supported"},
      {"/added_tokens", 1, "/added_tokens", "must be an array"},
      {"/added_tokens/0/id", 5, "/added_tokens/0", "has id 5 here and 0 in the vocabulary"},
      {"/added_tokens/0/id", -5, "/added_tokens/0/id", "outside 0 to"},
      {"/added_tokens/0/content", "", "/added_tokens/0", "is empty"},
      {"/added_tokens/0/content", "<new>", "/added_tokens/0", "belongs to two tokens"},
      {"/added_tokens/1", base()["added_tokens"][0], "/added_tokens/1", "is there twice"},
      {"/added_tokens/0/special", "yes", "/added_tokens/0/special", "must be true or false"},
      {"/normalizer", {{"type", "NFKC"}}, "/normalizer/type", "NFKC is not supported. Supported are null and NFC"},
      {"/normalizer", 3, "/normalizer", "must be an object"},
      {"/pre_tokenizer", nullptr, "/", "without a ByteLevel pre-tokenizer is not supported"},
      {"/pre_tokenizer",
       {{"type", "Metaspace"}},
       "/pre_tokenizer/type",
       "the pre-tokenizer Metaspace is not supported"},
      {"/pre_tokenizer", {{"type", "Sequence"}}, "/pre_tokenizer", "has no 'pretokenizers'"},
      {"/pre_tokenizer",
       {{"type", "Split"}, {"pattern", {{"Regex", "(a"}}}, {"behavior", "Isolated"}},
       "/pre_tokenizer/pattern/Regex",
       "can't be used"},
      {"/pre_tokenizer",
       {{"type", "Split"}, {"pattern", {{"Regex", "a"}}}, {"behavior", "isolated"}},
       "/pre_tokenizer/behavior",
       "unknown behavior"},
      {"/decoder", {{"type", "WordPiece"}}, "/decoder/type", "not supported"},
      {"/post_processor", {{"type", "BertProcessing"}}, "/post_processor/type", "not supported"},
      {"/post_processor",
       {{"type", "TemplateProcessing"},
        {"single", {{{"SpecialToken", {{"id", "<s>"}}}}}},
        {"special_tokens", json::object()}},
       "/post_processor/special_tokens",
       "has no '<s>'"},
      {"/post_processor",
       {{"type", "TemplateProcessing"},
        {"single", {{{"SpecialToken", {{"id", "s"}}}}, {{"Sequence", {{"id", "A"}}}}}},
        {"special_tokens", {{"s", {{"ids", {5000}}}}}}},
       "/post_processor",
       "names id 5000"},
      {"/model", nullptr, "/", "has no 'model'"},
      {"/model", json::array(), "/model", "must be an object"},
  };
  for (const Fault& fault : faults) {
    json document = base();
    document[json::json_pointer(fault.pointer)] = fault.value;
    const std::string message = message_of(document.dump());
    INFO(fault.pointer << " = " << fault.value.dump().substr(0, 80) << " gave: " << message);
    CHECK(message.rfind("tokenizer.json: " + fault.place, 0) == 0);
    CHECK(contains(message, fault.words));
  }
}

TEST_CASE("what is no tokenizer.json at all is named") {
  CHECK(contains(message_of(""), "tokenizer.json: not valid JSON"));
  CHECK(contains(message_of("[]"), "tokenizer.json: /: must be an object, is array"));
  CHECK(contains(message_of("{\n\"model\": {,\n}"), "line 2"));
  CHECK(contains(message_of("{\"model\": \"\xff\"}"), "not valid JSON"));
  CHECK(contains(message_of(std::string(2000000, '[')), "tokenizer.json:1: nested deeper than 100 levels"));
  std::string nested = "{\"type\":\"Sequence\",\"pretokenizers\":[";
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += nested;
  CHECK(contains(message_of("\n{\"pre_tokenizer\":" + deep), "tokenizer.json:2: nested deeper"));
}

TEST_CASE("no damage of a few bytes crashes the reader") {
  std::mt19937 random(17);
  const std::string whole = base().dump();
  int refused = 0;
  for (int i = 0; i < 300; ++i) {
    std::string text = whole;
    if (i % 3 == 0) {
      text.resize(random() % text.size());
    } else {
      for (int k = 0; k < 4; ++k) text[random() % text.size()] = "\"[]{}:,0 \xff"[random() % 10];
    }
    refused += message_of(text) == "no error" ? 0 : 1;
  }
  CHECK(refused > 150);
}

TEST_CASE("the end token comes from the files beside, or by its usual name") {
  const std::string text = base().dump();
  const auto load = [&](const std::string& config) {
    const test::TemporaryFolder folder;
    folder.write("tokenizer.json", text);
    if (!config.empty()) folder.write("tokenizer_config.json", config);
    return test::load(folder.path());
  };
  CHECK(load("")->eod() == TokenId{0});
  CHECK(!load("")->pad().has_value());
  const TokenId letter = load("")->encode("a")[0];
  CHECK(load(R"({"eos_token": "a", "pad_token": {"content": "<|endoftext|>"}})")->eod() == letter);
  CHECK(load(R"({"eos_token": "a", "pad_token": {"content": "<|endoftext|>"}})")->pad() == TokenId{0});
  CHECK(load(R"({"eos_token": null})")->eod() == TokenId{0});
  CHECK(contains(message_of(text, R"({"eos_token": "</s>"})"), "the eos_token '</s>' is not in"));
  CHECK(contains(message_of(text, R"({"eos_token": 3})"), "tokenizer_config.json: /eos_token: must be a string"));
  CHECK(load("")->fingerprint() != load(R"({"eos_token": "a"})")->fingerprint());
}

TEST_CASE("fingerprints tell tokenizers apart that give other ids") {
  const uint64_t plain = test::load_patched(json::object())->fingerprint();
  CHECK(test::load_patched(json::object())->fingerprint() == plain);
  json document = base();
  std::swap(document["model"]["merges"][3], document["model"]["merges"][4]);
  CHECK(test::load_patched(document)->fingerprint() != plain);
  for (const json& patch : {json{{"normalizer", {{"type", "NFC"}}}}, json{{"model", {{"ignore_merges", true}}}},
                            json{{"pre_tokenizer", {{"add_prefix_space", true}}}},
                            json{{"pre_tokenizer", {{"use_regex", false}}}}, json{{"added_tokens", json::array()}}}) {
    INFO(patch.dump());
    CHECK(test::load_patched(patch)->fingerprint() != plain);
  }
  const auto split = [](const char* pattern) {
    const json step = {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}};
    const json last = {{"type", "ByteLevel"}, {"use_regex", false}, {"add_prefix_space", false}};
    return test::load_patched({{"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {step, last}}}}})
        ->fingerprint();
  };
  CHECK(split("a+") == split("a+"));
  CHECK(split("a+") != split("a"));
  CHECK(test::load_patched({{"version", "2"}, {"decoder", nullptr}})->fingerprint() == plain);
}

TEST_CASE("ids outside and in holes of the vocabulary are refused") {
  json document = base();
  document["added_tokens"].push_back({{"id", 1120}, {"content", "<far>"}, {"special", true}});
  const std::unique_ptr<Tokenizer> tokenizer = test::load_patched(document);
  CHECK(tokenizer->vocab_size() == 1121);
  CHECK(tokenizer->encode("a<far>").back() == 1120);
  CHECK(tokenizer->decode({1120}) == "<far>");
  CHECK_THROWS_AS(tokenizer->decode({1115}), DataError);
  CHECK_THROWS_AS(tokenizer->decode({1121}), DataError);
  CHECK_THROWS_AS(tokenizer->decode({-1}), DataError);
}

TEST_CASE("a byte without a token is refused when it comes") {
  const json without_x = {{"model", {{"vocab", {{"X", nullptr}}}, {"merges", json::array()}}}};
  const std::unique_ptr<Tokenizer> tokenizer = test::load_patched(without_x);
  CHECK_NOTHROW(tokenizer->encode("abc"));
  CHECK_THROWS_AS(tokenizer->encode("abXc"), DataError);
}

TEST_CASE("faults of GPT-2's files are named") {
  const test::TemporaryFolder folder;
  const std::string vocab = folder.write("vocab.json", R"({"a": 0, "b": 1, "ab": 2})");
  const auto message = [&](const std::string& vocab_file, const std::string& merges) -> std::string {
    try {
      read_gpt2_files(vocab_file, folder.write("merges.txt", merges));
    } catch (const DataError& error) {
      return error.what();
    }
    return "no error";
  };
  CHECK(message(vocab, "#version: 0.2\na b\n") == "no error");
  CHECK(message(vocab, "#version: 0.2\r\na b\r\n") == "no error");
  CHECK(contains(message(vocab, "#version: 0.2\na b\na c\n"),
                 "merges.txt:3: merges 'c', which is not in the vocabulary"));
  CHECK(contains(message(vocab, "a b\nab\n"), "merges.txt:2: a merge must be two tokens"));
  CHECK(contains(message(folder.write("list.json", "[1]"), ""), "list.json: /: must be an object"));
  CHECK(contains(message(folder.write("twice.json", R"({"a": 0, "b": 0})"), ""), "id 0 belongs to two tokens"));
  CHECK(contains(message(folder.path() + "/none.json", ""), "none.json"));
}

TEST_CASE("specifications are checked") {
  TokenizerSpec spec;
  spec.tokenizer_type = "HuggingfaceTokenizer";
  CHECK_THROWS_WITH(make_tokenizer(spec),
                    Catch::Matchers::StartsWith("tokenizer_type 'HuggingfaceTokenizer' is not supported; did you mean "
                                                "'HuggingFaceTokenizer'?"));
  CHECK_THROWS_AS(make_tokenizer(spec), UsageError);
  spec.tokenizer_type = "HuggingFaceTokenizer";
  CHECK_THROWS_AS(make_tokenizer(spec), UsageError);
  spec.tokenizer_model = "/nowhere/tokenizer.json";
  CHECK_THROWS_AS(make_tokenizer(spec), DataError);
  const test::TemporaryFolder folder;
  spec.tokenizer_model = folder.path();
  CHECK_THROWS_AS(make_tokenizer(spec), DataError);
  folder.write("vocab.json", R"({"a": 0, "b": 1, "ab": 2})");
  folder.write("merges.txt", "a b\n");
  CHECK(make_tokenizer(spec)->encode("abb") == std::vector<TokenId>{2, 1});
  spec.tokenizer_type = "GPT2BPETokenizer";
  CHECK_THROWS_AS(make_tokenizer(spec), UsageError);
  spec.tokenizer_type = "NullTokenizer";
  CHECK_THROWS_AS(make_tokenizer(spec), UsageError);
  spec.vocab_size = 10;
  CHECK(make_tokenizer(spec)->vocab_size() == 11);
}

}  // namespace
}  // namespace megatron
