// What golden files can't show of the trainer: threads, files, refusals.
#include "base/error.h"
#include "tests/catch.h"
#include "tests/tokenizer/golden.h"
#include "tokenizer/bpe_trainer.h"
#include "tokenizer/corpus_counter.h"
#include "tokenizer/tokenizer_files.h"

namespace megatron {
namespace {

std::string trained(CorpusCounter& counter, int64_t vocab_size) {
  BpeTrainOptions options;
  options.vocab_size = vocab_size;
  return tokenizer_json_text(train_bpe(counter.take(), options));
}

/// A few megabytes, so that the text is cut into many parts.
std::string long_text() {
  const std::string corpus = read_file(test::golden_path("corpus.txt"));
  std::string text;
  while (text.size() < (size_t{5} << 20)) text += corpus + std::to_string(text.size()) + "\n";
  return text;
}

TEST_CASE("the number of threads and the cuts change nothing") {
  const std::string text = long_text();
  WordCounter whole;
  whole.add_pieces(text, scanner(ScannerKind::kGpt2));
  for (int threads = 1; threads <= 3; ++threads) {
    CorpusCounter counter(threads);
    counter.add_text(text);
    CHECK(counter.bytes() == static_cast<int64_t>(text.size()));
    const WordCounter counted = counter.take();
    const auto expected = whole.sorted(), words = counted.sorted();
    REQUIRE(words.size() == expected.size());
    size_t same = 0;
    for (size_t i = 0; i < words.size(); ++i)
      same += words[i].word == expected[i].word && words[i].count == expected[i].count;
    CHECK(same == words.size());
  }
}

TEST_CASE("JSONL and plain text of the same documents train alike") {
  const test::TemporaryFolder folder;
  std::string lines, text;
  for (int i = 0; i < 2000; ++i) {
    const std::string document = "Document " + std::to_string(i) + " isn't long;\n\tits caf\xc3\xa9 is closed.";
    lines += nlohmann::json{{"content", document}, {"id", i}}.dump() + "\n";
    text += document + "\n";
  }
  CorpusCounter from_lines(2), from_text(2);
  from_lines.add_file(folder.write("a.jsonl", lines + "\n"), "content");
  from_text.add_file(folder.write("a.txt", text), "");
  CHECK(from_lines.bytes() == from_text.bytes() - 2000);
  // The newline between documents stands in the text only, and never in a piece with something else.
  CHECK(trained(from_lines, 400) == trained(from_text, 400));
}

TEST_CASE("faults of JSONL are named by line") {
  const test::TemporaryFolder folder;
  const auto message = [&](const std::string& lines) -> std::string {
    CorpusCounter counter(2);
    try {
      counter.add_file(folder.write("a.jsonl", lines), "text");
    } catch (const DataError& error) {
      return std::string(error.what()).substr(folder.path().size() + 1);
    }
    return "no error";
  };
  const std::string good = "{\"text\": \"x\"}\n";
  CHECK(message(good + good) == "no error");
  CHECK(message(good + "\n{\"text\": \n") == "a.jsonl:3: not valid JSON; each line must be one object");
  CHECK(message(good + "{\"content\": \"x\"}") == "a.jsonl:2: no object with the key 'text'");
  CHECK(message("[]\n") == "a.jsonl:1: no object with the key 'text'");
  CHECK(message("{\"text\": 5}\n") == "a.jsonl:1: the value of 'text' must be a string, is number");
  CorpusCounter counter(1);
  CHECK_THROWS_AS(counter.add_file(folder.path() + "/none.txt", ""), DataError);
}

TEST_CASE("vocabularies that can't be are refused") {
  const WordCounter words;
  BpeTrainOptions options;
  options.vocab_size = 256;
  CHECK_THROWS_WITH(train_bpe(words, options),
                    Catch::Matchers::StartsWith("a vocabulary of 256 can't hold 1 special tokens"));
  options.vocab_size = 300;
  options.special_tokens = {"<a>", "<a>"};
  CHECK_THROWS_AS(train_bpe(words, options), UsageError);
  options.special_tokens = {""};
  CHECK_THROWS_AS(train_bpe(words, options), UsageError);
}

TEST_CASE("special tokens come first, and an empty corpus leaves the bytes") {
  BpeTrainOptions options;
  options.vocab_size = 300;
  options.special_tokens = {"<|end \"of\" text|>", "<pad>"};
  const test::TemporaryFolder folder;
  folder.write("tokenizer.json", tokenizer_json_text(train_bpe(WordCounter(), options)));
  const std::unique_ptr<Tokenizer> tokenizer = test::load(folder.path());
  CHECK(tokenizer->vocab_size() == 258);
  CHECK(tokenizer->encode("<pad><|end \"of\" text|>") == std::vector<TokenId>{1, 0});
  CHECK(tokenizer->decode(tokenizer->encode("any \xf0\x9f\x99\x82 text")) == "any \xf0\x9f\x99\x82 text");
}

TEST_CASE("a long text without a space is counted in parts") {
  WordCounter words;
  words.add_pieces(std::string(100000, 'x'), scanner(ScannerKind::kGpt2));
  int64_t total = 0;
  for (const CountedWord& word : words.sorted()) {
    CHECK(word.word.size() <= 1024);
    total += static_cast<int64_t>(word.word.size()) * word.count;
  }
  CHECK(total == 100000);
}

}  // namespace
}  // namespace megatron
