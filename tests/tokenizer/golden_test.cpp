// The same ids as Hugging Face's library.
#include "tests/tokenizer/golden.h"
#include "tests/catch.h"
#include "tokenizer/bpe_trainer.h"
#include "tokenizer/corpus_counter.h"
#include "tokenizer/tokenizer_files.h"

namespace megatron {
namespace {

using test::golden_json;
using test::golden_path;
using Ids = std::vector<TokenId>;

std::unique_ptr<Tokenizer> load_variant(const nlohmann::json& variant) {
  if (variant.contains("patch")) return test::load_patched(variant["patch"]);
  const test::TemporaryFolder folder;
  return test::load(folder.write("tokenizer.json", variant["tokenizer"].dump()));
}

TEST_CASE("all kinds of byte-level tokenizers give the library's ids") {
  const nlohmann::json golden = golden_json("encodings.json");
  const auto texts = golden["texts"].get<std::vector<std::string>>();
  REQUIRE(texts.size() > 200);
  REQUIRE(golden["variants"].size() > 30);
  for (const nlohmann::json& variant : golden["variants"]) {
    INFO("variant " << variant["name"]);
    const std::unique_ptr<Tokenizer> tokenizer = load_variant(variant);
    for (size_t i = 0; i < texts.size(); ++i) {
      INFO("text " << i << ": " << nlohmann::json(texts[i]).dump(-1, ' ', true));
      CHECK(tokenizer->encode(texts[i]) == variant["ids"][i].get<Ids>());
    }
    for (const auto& [index, ids] : variant["special_ids"].items()) {
      INFO("text " << index);
      CHECK(tokenizer->encode_with_special_tokens(texts[std::stoul(index)]) == ids.get<Ids>());
    }
  }
}

TEST_CASE("GPT-2's two files give the ids of the tokenizer.json") {
  TokenizerSpec spec;
  spec.tokenizer_type = "GPT2BPETokenizer";
  spec.vocab_file = golden_path("vocab.json");
  spec.merge_file = golden_path("merges.txt");
  const std::unique_ptr<Tokenizer> files = make_tokenizer(spec);
  const std::unique_ptr<Tokenizer> json = test::load(golden_path("tokenizer.json"));
  CHECK(files->fingerprint() == json->fingerprint());
  CHECK(files->vocab_size() == 1112);
  CHECK(files->eod() == TokenId{0});
  const nlohmann::json golden = golden_json("encodings.json");
  for (const std::string text : golden["texts"]) CHECK(files->encode(text) == json->encode(text));
}

TEST_CASE("training learns the library's merges in its order") {
  const std::string corpus = read_file(golden_path("corpus.txt"));
  for (const nlohmann::json& golden : golden_json("trained.json")) {
    CorpusCounter counter(2);
    counter.add_text(golden["text"].is_null() ? corpus : golden["text"].get<std::string>());
    BpeTrainOptions options;
    options.vocab_size = golden["vocab_size"];
    options.min_frequency = golden["min_frequency"];
    options.special_tokens = golden["special_tokens"].get<std::vector<std::string>>();
    INFO("vocab_size " << options.vocab_size << ", min_frequency " << options.min_frequency);
    const std::string text = tokenizer_json_text(train_bpe(counter.take(), options));
    const nlohmann::json written = nlohmann::json::parse(text);
    CHECK(written["model"]["merges"] == golden["merges"]);
    CHECK(written["model"]["vocab"].size() == golden["tokens"]);
    for (size_t i = 0; i < golden["special_ids"].size(); ++i) {
      CHECK(written["model"]["vocab"][options.special_tokens[i]] == golden["special_ids"][i]);
    }
  }
}

TEST_CASE("a trained tokenizer.json is the library's") {
  CorpusCounter counter(1);
  counter.add_file(golden_path("corpus.txt"), "text");
  BpeTrainOptions options;
  options.vocab_size = 1500;
  const nlohmann::json ours = nlohmann::json::parse(tokenizer_json_text(train_bpe(counter.take(), options)));
  const nlohmann::json theirs = golden_json("tokenizer.json");
  CHECK(ours["added_tokens"] == theirs["added_tokens"]);
  CHECK(ours["model"]["vocab"] == theirs["model"]["vocab"]);
  CHECK(ours["pre_tokenizer"] == theirs["pre_tokenizer"]);
  const test::TemporaryFolder folder;
  CHECK(test::load(folder.write("tokenizer.json", ours.dump()))->fingerprint() ==
        test::load(golden_path("tokenizer.json"))->fingerprint());
}

}  // namespace
}  // namespace megatron
