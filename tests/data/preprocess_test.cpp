// From text to token files: the same bytes whatever the workers and the pieces.
#include <random>

#include "data/indexed_file.h"
#include "data/input_reader.h"
#include "data/json_lines.h"
#include "data/ordered_pipeline.h"
#include "data/preprocess.h"
#include "helpers.h"

namespace megatron {
namespace {

std::vector<std::vector<TokenId>> documents_of(const std::string& prefix) {
  const IndexedFile file(prefix);
  std::vector<std::vector<TokenId>> documents;
  for (int64_t d = 0; d < file.documents(); ++d) {
    const int64_t begin = file.sequence_begin(file.document_begin(d));
    documents.emplace_back(static_cast<size_t>(file.sequence_begin(file.document_begin(d + 1)) - begin));
    file.read(begin, documents.back());
  }
  return documents;
}

/// Words, runs of white space, blank lines and characters of several bytes.
std::string random_text(uint32_t seed, size_t bytes) {
  std::mt19937 random(seed);
  static const std::vector<std::string> kParts = {"word", "a",  "longer-one", " ",      " ", " ",    "  ", "\n",
                                                  "\n\n", "\t", "caf\u00e9",  "\u4e2d", ".", "\r\n", "x",  " \n"};
  std::string text;
  while (text.size() < bytes) text += kParts[random() % kParts.size()];
  return text;
}

PreprocessOptions options_for(const std::string& input, const std::string& prefix) {
  PreprocessOptions options;
  options.inputs = {input};
  options.output_prefix = prefix;
  return options;
}

}  // namespace

TEST_CASE("JSONL gives the golden files, with any number of workers") {
  const Scratch scratch;
  const BytesTokenizer tokenizer;
  for (const int workers : {1, 3}) {
    for (const int64_t item_bytes : {int64_t{1}, int64_t{1} << 18}) {
      PreprocessOptions options = options_for(golden("rows.jsonl"), scratch / "rows");
      options.json_keys = {"text", "title"};
      options.append_eod = true;
      options.workers = workers;
      options.item_bytes = item_bytes;
      const PreprocessReport report = preprocess(options, tokenizer);
      CHECK(report.totals.documents == 5);
      CHECK(report.empty_documents == 2);
      for (const std::string name : {"rows_text_document", "rows_title_document"}) {
        CHECK(read_text(scratch / name + ".bin") == read_text(golden(name) + ".bin"));
        CHECK(read_text(scratch / name + ".idx") == read_text(golden(name) + ".idx"));
      }
    }
  }
}

TEST_CASE("a malformed line is refused with file and line") {
  const Scratch scratch;
  const BytesTokenizer tokenizer;
  const auto refusal = [&](const std::string& line) {
    write_text(scratch / "in.jsonl", "{\"text\": \"fine\"}\n\n" + line + "\n{\"text\": 5}\n");
    PreprocessOptions options = options_for(scratch / "in.jsonl", scratch / "out");
    options.workers = 2;
    options.item_bytes = 1;
    const std::string message = message_of<DataError>([&] { preprocess(options, tokenizer); });
    CHECK(scratch.names() == std::vector<std::string>{"in.jsonl"});
    return message;
  };
  CHECK(contains(refusal("{\"text\": \"open"), "in.jsonl:3: malformed JSON: parse error at column 15"));
  CHECK(contains(refusal("{\"body\": \"x\", \"id\": 1}"), "in.jsonl:3: no key 'text'; keys here: body, id"));
  CHECK(contains(refusal("{\"text\": 7}"), "in.jsonl:3: key 'text': text is needed, this is a number"));
  CHECK(contains(refusal("{\"text\": [\"a\", null]}"), "in.jsonl:3: key 'text': the list holds a null"));
  CHECK(contains(refusal("[1]"), "in.jsonl:3: a JSON object is needed, this is a array"));
  CHECK(contains(refusal("{\"text\": \"\xff\"}"), "in.jsonl:3: malformed JSON"));
  CHECK(contains(refusal("{\"text\": \"\\ud800\"}"), "in.jsonl:3: malformed JSON"));
}

TEST_CASE("the quick JSON reader agrees with the full one on mutated lines") {
  const std::vector<std::string> seeds = {
      R"({"id": 12, "text": "plain", "n": null, "t": true, "f": false})",
      R"({"text":"q\"b\\s\/n\nt\tu\u00e9\ud83d\ude00","x":[1,2.5,{"a":[]},"s"],"y":{}})",
      "{ \"x\" : -0.5 , \"text\" : \"caf\xc3\xa9 \xe4\xb8\xad \xf0\x9f\x98\x80\" }\r"};
  const std::string alphabet = "{}[]\",:\\/ux019dDeE.-+ \t\n\x01\x7f\x80\xc3\xa9\xed\xf0tfn";
  const std::vector<std::string> keys = {"text"};
  std::mt19937 random(5);
  int taken = 0;
  for (int round = 0; round < 60000; ++round) {
    std::string line = seeds[random() % seeds.size()];
    for (uint32_t edits = random() % 4; edits > 0; --edits) {
      const size_t at = random() % line.size();
      const char c = alphabet[random() % alphabet.size()];
      switch (random() % 3) {
        case 0:
          line[at] = c;
          break;
        case 1:
          line.insert(at, 1, c);
          break;
        default:
          line.erase(at, 1);
      }
    }
    std::vector<JsonTexts> fast, slow;
    if (!extract_texts_fast(line, keys, fast)) continue;
    ++taken;
    // An unused list value sends the line to the full parser without changing what it means.
    INFO(line);
    extract_texts("{\"unused\":1e0," + line.substr(line.find('{') + 1), keys, "f", 1, slow);
    CHECK(fast == slow);
  }
  CHECK(taken > 15000);
}

TEST_CASE("plain text: one document, or one between separators") {
  const Scratch scratch;
  const BytesTokenizer tokenizer;
  write_text(scratch / "in.txt", "ab\n\n\n\nc\n\n\nd\n\n");
  PreprocessOptions options = options_for(scratch / "in.txt", scratch / "deep/text");
  options.append_eod = true;
  preprocess(options, tokenizer);
  CHECK(documents_of(scratch / "deep/text_document").size() == 1);
  CHECK(documents_of(scratch / "deep/text_document")[0].size() == 14);
  options.document_separator = "\n\n";
  for (const int64_t item_bytes : {1, 3, 1000}) {
    options.item_bytes = item_bytes;
    const PreprocessReport report = preprocess(options, tokenizer);
    CHECK(documents_of(scratch / "deep/text_document") ==
          std::vector<std::vector<TokenId>>{{'a', 'b', 256}, {'c', 256}, {'\n', 'd', 256}});
    CHECK(report.empty_documents == 0);
  }
  write_text(scratch / "empty.txt", "");
  const std::string before = read_text(scratch / "deep/text_document.bin");
  options.inputs = {scratch / "empty.txt"};
  CHECK(contains(message_of<DataError>([&] { preprocess(options, tokenizer); }), "holds no token"));
  CHECK(read_text(scratch / "deep/text_document.bin") == before);
}

TEST_CASE("a separator at any place of a read is found") {
  const Scratch scratch;
  const BytesTokenizer tokenizer;
  const std::string separator = "<|split|>";
  for (size_t before = 262144 - separator.size() - 1; before <= 262144 + 1; ++before) {  // input is read by 256 KiB
    write_text(scratch / "in.txt", std::string(before, 'x') + separator + "y");
    PreprocessOptions options = options_for(scratch / "in.txt", scratch / "text");
    options.document_separator = separator;
    options.item_bytes = 100000;
    preprocess(options, tokenizer);
    const std::vector<std::vector<TokenId>> documents = documents_of(scratch / "text_document");
    REQUIRE(documents.size() == 2);
    CHECK(documents[0].size() == before);
    CHECK(documents[1] == std::vector<TokenId>{'y'});
  }
}

TEST_CASE("cutting a document into pieces changes no token") {
  const Scratch scratch;
  const WordsTokenizer tokenizer;
  for (const uint32_t seed : {1u, 2u, 3u}) {
    const std::string text = random_text(seed, 300000);
    write_text(scratch / "in.txt", text);
    std::vector<TokenId> expected = tokenizer.encode(text);
    expected.push_back(*tokenizer.eod());
    for (const int workers : {1, 4}) {
      PreprocessOptions options = options_for(scratch / "in.txt", scratch / "text");
      options.append_eod = true;
      options.workers = workers;
      options.item_bytes = 3000;
      preprocess(options, tokenizer);
      CHECK(documents_of(scratch / "text_document") == std::vector<std::vector<TokenId>>{expected});
    }
    TextReader reader(scratch / "in.txt", "", 3000, 1 << 20, tokenizer);
    int pieces = 0;
    while (reader.next()) ++pieces;
    CHECK(pieces > 30);
  }
}

TEST_CASE("a tokenizer that refuses all cuts gets whole documents, up to the limit") {
  const Scratch scratch;
  const BeginTokenizer tokenizer;
  const std::string text = random_text(4, 50000);
  write_text(scratch / "in.txt", text);
  PreprocessOptions options = options_for(scratch / "in.txt", scratch / "text");
  options.item_bytes = 1000;
  preprocess(options, tokenizer);
  CHECK(documents_of(scratch / "text_document") == std::vector<std::vector<TokenId>>{tokenizer.encode(text)});
  options.document_limit_bytes = 10000;
  CHECK(contains(message_of<DataError>([&] { preprocess(options, tokenizer); }), "--document-separator"));
}

TEST_CASE("the tokenizer's own special tokens stand around every document") {
  class Wrapped : public BytesTokenizer {
    std::vector<TokenId> encode_with_special_tokens(std::string_view text) const override {
      std::vector<TokenId> ids = encode(text);
      ids.insert(ids.begin(), 257);
      ids.push_back(258);
      return ids;
    }
    int64_t vocab_size() const override { return 259; }
  };
  const Scratch scratch;
  const Wrapped tokenizer;
  std::string text;
  while (text.size() < 20000) text += "some words ";
  write_text(scratch / "in.txt", text);
  write_text(scratch / "in.jsonl", "{\"text\": \"" + text + "\"}\n");
  std::vector<TokenId> expected = tokenizer.encode(text);
  PreprocessOptions options = options_for(scratch / "in.txt", scratch / "out");
  options.item_bytes = 2000;
  options.include_special_tokens = false;
  preprocess(options, tokenizer);
  CHECK(documents_of(scratch / "out_document")[0] == expected);
  expected.insert(expected.begin(), 257);
  expected.push_back(258);
  options.include_special_tokens = true;
  preprocess(options, tokenizer);
  CHECK(documents_of(scratch / "out_document")[0] == expected);
  options.inputs = {scratch / "in.jsonl"};
  preprocess(options, tokenizer);
  CHECK(documents_of(scratch / "out_text_document")[0] == expected);
}

TEST_CASE("contradictory options are refused") {
  const Scratch scratch;
  const BytesTokenizer tokenizer;
  write_text(scratch / "in.txt", "x");
  const auto refused = [&](auto change) {
    PreprocessOptions options = options_for(scratch / "in.txt", scratch / "out");
    change(options);
    return message_of<UsageError>([&] { preprocess(options, tokenizer); });
  };
  CHECK(contains(refused([](auto& o) { o.inputs.push_back("b.jsonl"); }), "text and JSONL files in one run"));
  CHECK(contains(refused([](auto& o) { o.inputs = {"b.jsonl.gz"}; }), "compressed"));
  CHECK(contains(refused([](auto& o) { o.inputs = {"-"}; }), "--input-format"));
  CHECK(contains(refused([](auto& o) { o.inputs.clear(); }), "--input"));
  CHECK(contains(refused([](auto& o) { o.workers = 0; }), "--workers"));
  CHECK(contains(refused([](auto& o) { o.format = InputFormat::kJsonl, o.document_separator = "x"; }), "plain text"));
  CHECK(contains(refused([](auto& o) { o.format = InputFormat::kJsonl, o.json_keys = {"a", "a"}; }), "named twice"));
  CHECK_THROWS_AS(preprocess(options_for(scratch / "missing.txt", scratch / "out"), tokenizer), DataError);
  class NoEnd : public BytesTokenizer {
    std::optional<TokenId> eod() const override { return std::nullopt; }
  };
  PreprocessOptions options = options_for(scratch / "in.txt", scratch / "out");
  options.append_eod = true;
  CHECK(contains(message_of<UsageError>([&] { preprocess(options, NoEnd()); }), "--append-eod"));
}

TEST_CASE("the pipeline keeps order and rethrows the first error of the input") {
  for (const int workers : {1, 4}) {
    int next = 0;
    std::vector<int> out;
    OrderedPipeline<int, int> pipeline(workers, [](int&& i) {
      if (i >= 50) throw DataError(std::to_string(i));
      std::this_thread::sleep_for(std::chrono::microseconds((i * 37) % 300));
      return 2 * i;
    });
    const auto run = [&] {
      pipeline.run(
          6, [&] { return std::optional<int>(next++); }, [&](int&& i) { out.push_back(i); });
    };
    CHECK(message_of<DataError>(run) == "50");
    REQUIRE(out.size() == 50);
    for (int i = 0; i < 50; ++i) CHECK(out[static_cast<size_t>(i)] == 2 * i);
  }
}

}  // namespace megatron
