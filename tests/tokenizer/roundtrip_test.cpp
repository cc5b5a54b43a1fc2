// decode(encode(x)) is x; caches, threads and long words change nothing.
#include <chrono>
#include <random>
#include <thread>

#include "base/error.h"
#include "tests/catch.h"
#include "tests/tokenizer/golden.h"
#include "tokenizer/bpe_model.h"
#include "tokenizer/simple_tokenizers.h"
#include "tokenizer/stream_decoder.h"
#include "tokenizer/unicode.h"

namespace megatron {
namespace {

using test::golden_path;
using test::load;

std::string random_bytes(std::mt19937& random, size_t most) {
  std::string text(random() % most, '\0');
  for (char& c : text) c = static_cast<char>(random() % 2 == 0 ? "etaoin sh\n'"[random() % 11] : random());
  return text;
}

TEST_CASE("bytes of any kind survive encode and decode") {
  std::mt19937 random(3);
  const nlohmann::json golden = test::golden_json("encodings.json");
  for (const nlohmann::json& variant : golden["variants"]) {
    const std::string name = variant["name"];
    const bool lossy = name.find("prefix") != name.npos || name.find("Removed") != name.npos ||
                       name.find("NFC") != name.npos || name.find("regex, ") != name.npos ||
                       name.find("added") != name.npos || name == "qwen2" || !variant.contains("patch");
    if (lossy) continue;
    INFO(name);
    const std::unique_ptr<Tokenizer> tokenizer = test::load_patched(variant["patch"]);
    for (int i = 0; i < 400; ++i) {
      const std::string text = random_bytes(random, 300);
      REQUIRE(tokenizer->decode(tokenizer->encode(text)) == text);
    }
    for (const std::string text : golden["texts"]) REQUIRE(tokenizer->decode(tokenizer->encode(text)) == text);
  }
  for (int i = 0; i < 100; ++i) {
    const std::string text = random_bytes(random, 300);
    REQUIRE(ByteTokenizer().decode(ByteTokenizer().encode(text)) == text);
  }
}

/// The rule itself, written plainly: the leftmost pair of lowest rank, again and again.
std::vector<TokenId> merge_plainly(std::vector<TokenId> ids, const std::vector<Merge>& merges) {
  for (;;) {
    size_t best_rank = merges.size(), best_place = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      for (size_t rank = 0; rank < best_rank; ++rank) {
        if (merges[rank].left != ids[i] || merges[rank].right != ids[i + 1]) continue;
        best_rank = rank;
        best_place = i;
      }
    }
    if (best_rank == merges.size()) return ids;
    ids[best_place] = merges[best_rank].result;
    ids.erase(ids.begin() + static_cast<ptrdiff_t>(best_place) + 1);
  }
}

TEST_CASE("words of all lengths are merged by the rule") {
  // Tokens over {a, b, c}; the merges are random, so that ranks and places compete.
  std::mt19937 random(5);
  std::vector<std::string> tokens = {"a", "b", "c"};
  std::vector<Merge> merges;
  while (merges.size() < 60) {
    const auto left = static_cast<TokenId>(random() % tokens.size()),
               right = static_cast<TokenId>(random() % tokens.size());
    const std::string whole = tokens[static_cast<size_t>(left)] + tokens[static_cast<size_t>(right)];
    if (whole.size() > 9 || std::find(tokens.begin(), tokens.end(), whole) != tokens.end()) continue;
    merges.push_back({left, right, static_cast<TokenId>(tokens.size())});
    tokens.push_back(whole);
  }
  std::shuffle(merges.begin(), merges.end(), random);
  const BpeModel model(tokens, merges, {}, "test");
  WordCache cache;
  for (size_t length = 1; length < 160; ++length) {
    for (int repeat = 0; repeat < 6; ++repeat) {
      std::string word(length, 'a');
      std::vector<TokenId> symbols;
      for (char& c : word) {
        c = "abc"[random() % 3];
        symbols.push_back(c - 'a');
      }
      const std::vector<TokenId> expected = merge_plainly(symbols, merges);
      for (int again = 0; again < 2; ++again) {  // the second time from the cache
        std::vector<TokenId> ids;
        model.encode(word, cache, ids);
        REQUIRE(ids == expected);
      }
    }
  }
}

TEST_CASE("words that differ in zero bytes are different words") {
  const std::unique_ptr<Tokenizer> tokenizer = load(golden_path("tokenizer.json"));
  for (const size_t zeros : {0, 1, 2, 5, 20, 30}) {
    const std::string text = "!" + std::string(zeros, '\0');
    CHECK(tokenizer->decode(tokenizer->encode(text)) == text);
  }
}

TEST_CASE("a word of a megabyte is no trouble") {
  const std::unique_ptr<Tokenizer> tokenizer = load(golden_path("tokenizer.json"));
  std::mt19937 random(9);
  std::string text(size_t{1} << 20, 'a');
  for (char& c : text) c = static_cast<char>('a' + random() % 26);
  const auto begin = std::chrono::steady_clock::now();
  CHECK(tokenizer->decode(tokenizer->encode(text)) == text);
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(20));  // quadratic: hours
}

TEST_CASE("several threads may encode at once") {
  const std::unique_ptr<Tokenizer> tokenizer = load(golden_path("tokenizer.json"));
  const std::string text = read_file(golden_path("corpus.txt"));
  const std::vector<TokenId> expected = tokenizer->encode(text);
  std::vector<std::vector<TokenId>> results(4);
  std::vector<std::thread> threads;
  for (auto& result : results) {
    threads.emplace_back([&] {
      for (int i = 0; i < 5; ++i) result = tokenizer->encode(text);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& result : results) CHECK(result == expected);
}

TEST_CASE("streaming emits whole characters and the same text") {
  const std::unique_ptr<Tokenizer> tokenizer = load(golden_path("tokenizer.json"));
  const ByteTokenizer bytes;
  std::mt19937 random(13);
  const auto is_utf8 = [](const std::string& text) {
    for (const char *p = text.data(), *end = p + text.size(); p < end;) {
      const CodePoint c = decode_utf8(p, end);
      if (c.value == kInvalidCodePoint) return false;
      p += c.length;
    }
    return true;
  };
  std::vector<std::string> texts;
  const nlohmann::json golden = test::golden_json("encodings.json");
  for (const std::string text : golden["texts"]) texts.push_back(text);
  for (int i = 0; i < 500; ++i) texts.push_back(random_bytes(random, 60));
  for (const std::string& text : texts) {
    for (const Tokenizer* each :
         {static_cast<const Tokenizer*>(tokenizer.get()), static_cast<const Tokenizer*>(&bytes)}) {
      StreamDecoder stream(*each);
      std::string joined;
      for (TokenId id : each->encode(text)) {
        const std::string part = stream.push(id);
        REQUIRE(is_utf8(part));
        joined += part;
      }
      joined += stream.finish();
      REQUIRE(is_utf8(joined));
      REQUIRE(joined == valid_utf8(text));
      if (is_utf8(text)) REQUIRE(joined == text);
    }
  }
}

TEST_CASE("broken characters become one replacement each") {
  const std::string r = "\xef\xbf\xbd";
  CHECK(valid_utf8("a\xff"
                   "b") == "a" + r + "b");
  CHECK(valid_utf8("\xf0\x9f\x99") == r);  // cut short: one
  CHECK(valid_utf8("\xf0\x9f\x99"
                   "a") == r + "a");
  CHECK(valid_utf8("\xed\xa0\x80") == r + r + r);  // a surrogate has no beginning that could go on
  CHECK(valid_utf8("\xe2\x82\xe2\x82\xac") == r + "\xe2\x82\xac");
  const ByteTokenizer bytes;
  StreamDecoder stream(bytes);
  CHECK(stream.push(0xe2).empty());
  CHECK(stream.push(0x82).empty());
  CHECK(stream.push(0xac) == "\xe2\x82\xac");
  CHECK(stream.push(0xe2).empty());
  CHECK(stream.finish() == r);
  CHECK(stream.finish().empty());
}

TEST_CASE("byte and null tokenizers") {
  const ByteTokenizer bytes;
  CHECK(bytes.encode("a\xff") == std::vector<TokenId>{97, 255});
  CHECK(bytes.eod() == TokenId{256});
  CHECK(bytes.vocab_size() == 257);
  CHECK(bytes.decode({104, 105, 256}) == "hi<|endoftext|>");
  CHECK_THROWS_AS(bytes.decode({257}), DataError);
  CHECK_THROWS_AS(bytes.decode({-1}), DataError);
  const NullTokenizer null(100);
  CHECK(null.encode(" 5 17\n\t100 ") == std::vector<TokenId>{5, 17, 100});
  CHECK(null.eod() == TokenId{100});
  CHECK(null.vocab_size() == 101);
  CHECK(null.decode({5, 17, 100}) == "5 17 100");
  CHECK(null.decode({}).empty());
  for (const char* bad : {"101", "-1", "5x", "x", "1.0", "99999999999999999999"})
    CHECK_THROWS_AS(null.encode(bad), DataError);
  CHECK_THROWS_WITH(null.encode("5 seven"), Catch::Matchers::StartsWith("NullTokenizer: 'seven' at byte 2"));
  CHECK_THROWS_AS(NullTokenizer(0), UsageError);
  CHECK(NullTokenizer(5).fingerprint() != NullTokenizer(6).fingerprint());
}

}  // namespace
}  // namespace megatron
