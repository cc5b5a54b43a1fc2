// Indexed files: byte-exact against files written by scripts/golden/data_indexed.py, and refused when damaged.
#include <random>

#include "data/data_tools.h"
#include "data/indexed_file.h"
#include "data/indexed_writer.h"
#include "helpers.h"

namespace megatron {
namespace {

using Documents = std::vector<std::vector<std::vector<TokenId>>>;

void write_documents(const std::string& prefix, TokenDtype dtype, const Documents& documents,
                     const std::optional<TokenizerIdentity>& tokenizer = std::nullopt) {
  IndexedWriter writer(prefix, dtype);
  for (const auto& document : documents) {
    for (const auto& sequence : document) {
      writer.append(sequence);
      writer.end_sequence();
    }
    writer.end_document();
  }
  writer.finish(tokenizer);
}

std::vector<TokenId> tokens_of(const IndexedFile& file) {
  std::vector<TokenId> ids(static_cast<size_t>(file.tokens()));
  file.read(0, ids);
  return ids;
}

const Documents kShort = {{{1, 2, 3}}, {{65535, 0}, {7}}, {}, {{256}}};
const Documents kWide = {{{100000, 0, 2147483647}}, {std::vector<TokenId>(40, 5)}};

}  // namespace

TEST_CASE("the writer gives the bytes of the golden files") {
  const Scratch scratch;
  const auto check = [&](const std::string& name, TokenDtype dtype, const Documents& documents) {
    write_documents(scratch / name, dtype, documents);
    CHECK(read_text(bin_path(scratch / name)) == read_text(bin_path(golden(name))));
    CHECK(read_text(idx_path(scratch / name)) == read_text(idx_path(golden(name))));
  };
  check("short", TokenDtype::kU16, kShort);
  check("wide", TokenDtype::kI32, kWide);
  check("nothing", TokenDtype::kU16, {});
  CHECK(dtype_for_vocab(65499) == TokenDtype::kU16);
  CHECK(dtype_for_vocab(65500) == TokenDtype::kI32);
}

TEST_CASE("the reader gives back documents, sequences and tokens") {
  const IndexedFile file(golden("short"));
  CHECK(file.documents() == 4);
  CHECK(file.sequences() == 4);
  CHECK(tokens_of(file) == std::vector<TokenId>{1, 2, 3, 65535, 0, 7, 256});
  CHECK(file.sequence_begin(2) == 5);
  CHECK(file.sequence_length(1) == 2);
  CHECK(file.document_begin(2) == 3);
  CHECK(file.document_begin(3) == 3);
  std::vector<int64_t> documents;
  for (int64_t i = 0; i < file.tokens(); ++i) documents.push_back(file.document_of(i));
  CHECK(documents == std::vector<int64_t>{0, 0, 0, 1, 1, 1, 3});
  CHECK(tokens_of(IndexedFile(golden("wide")))[2] == 2147483647);
  CHECK(IndexedFile(golden("nothing")).documents() == 0);
}

TEST_CASE("all integer types are read") {
  const Scratch scratch;
  for (const TokenDtype dtype :
       {TokenDtype::kU8, TokenDtype::kI8, TokenDtype::kI16, TokenDtype::kI32, TokenDtype::kI64, TokenDtype::kU16}) {
    write_documents(scratch / "x", dtype, {{{1, 127, 0}}});
    CHECK(tokens_of(IndexedFile(scratch / "x")) == std::vector<TokenId>{1, 127, 0});
  }
  write_documents(scratch / "x", TokenDtype::kI64, {{{1, 2}}});
  std::string bin = read_text(scratch / "x.bin");
  bin[12] = 1;  // token 1 becomes 2 + 2^32
  write_text(scratch / "x.bin", bin);
  const std::string message = message_of<DataError>([&] { tokens_of(IndexedFile(scratch / "x")); });
  CHECK(contains(message, "x.bin: token 1 (document 0) is 4294967298"));
}

TEST_CASE("a damaged pair of files is refused with file and place") {
  const Scratch scratch;
  const std::string prefix = scratch / "x";
  const auto fresh = [&] { write_documents(prefix, TokenDtype::kU16, kShort); };
  const auto refusal = [&] { return message_of<DataError>([&] { IndexedFile file(prefix); }); };
  const auto change = [&](const std::string& suffix, auto edit) {
    fresh();
    std::string bytes = read_text(prefix + suffix);
    edit(bytes);
    write_text(prefix + suffix, bytes);
    return refusal();
  };
  CHECK(contains(refusal(), "x.idx: no such file; run megatron preprocess"));
  fresh();
  std::filesystem::remove(prefix + ".bin");
  CHECK(contains(refusal(), "x.bin: no such file"));
  CHECK(contains(change(".bin", [](std::string& b) { b.pop_back(); }), "x.bin: 13 bytes"));
  CHECK(contains(change(".bin", [](std::string& b) { b.pop_back(); }), "needs 14: truncated"));
  CHECK(contains(change(".bin", [](std::string& b) { b += "xx"; }), "too long"));
  CHECK(contains(change(".idx", [](std::string& b) { b.resize(20); }), "20 bytes, a header has 34"));
  CHECK(contains(change(".idx", [](std::string& b) { b[0] = 'X'; }), "byte 0"));
  CHECK(contains(change(".idx", [](std::string& b) { b[9] = 2; }), "byte 9: format version 2"));
  CHECK(contains(change(".idx", [](std::string& b) { b[17] = 9; }), "byte 17: unknown token type 9"));
  CHECK(contains(change(".idx", [](std::string& b) { b[17] = 7; }), "f32"));
  CHECK(contains(change(".idx", [](std::string& b) { b[18] = 5; }), "need 134"));
  CHECK(contains(change(".idx", [](std::string& b) { b[25] = 0x7f; }), "byte 18: claims"));
  CHECK(contains(change(".idx", [](std::string& b) { b[37] = '\xff'; }), "byte 34: sequence 0 has length -"));
  CHECK(contains(change(".idx", [](std::string& b) { b[38] = 3; }), "sequence 2 begins at byte 10"));
  CHECK(contains(change(".idx", [](std::string& b) { b[58] = 8; }), "byte 58: sequence 1 begins at byte 8"));
  CHECK(contains(change(".idx", [](std::string& b) { b[90] = 9; }), "byte 90: document 1 begins at sequence 9"));
  CHECK(contains(change(".idx", [](std::string& b) { b[82] = 1; }), "byte 82: document 0"));
  CHECK(
      contains(change(".idx", [](std::string& b) { b.resize(b.size() - 8), b += std::string(13, '\0'); }), "need 122"));
  CHECK(contains(change(".idx", [](std::string& b) { b += std::string(4, '\0'); }), "multimodal"));
}

TEST_CASE("any single changed byte of the index is found by verify") {
  const Scratch scratch;
  const std::string prefix = scratch / "x";
  write_documents(prefix, TokenDtype::kU16, kShort, TokenizerIdentity{5, 65536, 256});
  for (const std::string suffix : {".idx", ".bin"}) {
    const std::string good = read_text(prefix + suffix);
    for (size_t i = 0; i < good.size(); ++i) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ 4);
      write_text(prefix + suffix, bad);
      CHECK_THROWS_AS(verify_data(IndexedFile(prefix), std::nullopt), DataError);
    }
    write_text(prefix + suffix, good);
  }
  const VerifyReport report = verify_data(IndexedFile(prefix), std::nullopt);
  CHECK(report.hashes_checked);
  CHECK(report.max_token_id == 65535);
}

TEST_CASE("a file appears only when it is complete") {
  const Scratch scratch;
  {
    IndexedWriter writer(scratch / "x", TokenDtype::kU16);
    writer.append(std::vector<TokenId>(1000, 3));
    writer.end_sequence();
    CHECK(contains(message_of<DataError>([&] { IndexedWriter second(scratch / "x", TokenDtype::kU16); }),
                   "another process is writing it"));
    writer.end_document();
    CHECK(scratch.names() == std::vector<std::string>{"x.bin.partial", "x.documents.partial", "x.idx.partial"});
  }
  CHECK(scratch.names().empty());
  write_documents(scratch / "x", TokenDtype::kU16, kShort, TokenizerIdentity{5, 65536, 256});
  CHECK(scratch.names() == std::vector<std::string>{"x.bin", "x.idx", "x.meta.json"});
  // Without a known tokenizer the old side file must not survive.
  write_documents(scratch / "x", TokenDtype::kU16, {{{1}}});
  CHECK(scratch.names() == std::vector<std::string>{"x.bin", "x.idx"});
}

TEST_CASE("tables larger than the writer's buffers") {
  const Scratch scratch;
  IndexedWriter writer(scratch / "x", TokenDtype::kI32);
  std::vector<TokenId> expected;
  for (int i = 0; i < 400000; ++i) {
    const std::vector<TokenId> ids(static_cast<size_t>(i % 4), i);
    expected.insert(expected.end(), ids.begin(), ids.end());
    writer.append(ids);
    writer.end_sequence();
    if (i % 3 == 2) writer.end_document();
  }
  writer.end_document();
  writer.finish(std::nullopt);
  const IndexedFile file(scratch / "x");
  CHECK(file.documents() == 133334);
  CHECK(tokens_of(file) == expected);
  CHECK(file.sequence_begin(399999) == static_cast<int64_t>(expected.size()) - 3);
}

TEST_CASE("another tokenizer is refused by fingerprint, or by the range of ids") {
  const Scratch scratch;
  const BytesTokenizer bytes;
  const WordsTokenizer words;
  write_documents(scratch / "x", TokenDtype::kU16, {{{1, 2}}, {{3, 256}}}, identity_of(bytes));
  const IndexedFile file(scratch / "x");
  file.check_tokenizer(bytes);
  const std::string message = message_of<DataError>([&] { file.check_tokenizer(words); });
  CHECK(contains(message, "x.meta.json: the data was made with another tokenizer"));
  const IndexedFile plain(golden("short"));
  plain.check_tokenizer(words);  // nothing is known
  const std::vector<TokenId> ids = tokens_of(plain);
  plain.check_ids(0, ids, 65536);
  CHECK(contains(message_of<DataError>([&] { plain.check_ids(0, ids, 257); }),
                 "short.bin: document 1, token 0 (byte 6): id 65535 is outside the vocabulary of 257"));
}

TEST_CASE("a side file that belongs to other data is refused") {
  const Scratch scratch;
  write_documents(scratch / "x", TokenDtype::kU16, kShort, TokenizerIdentity{5, 65536, 256});
  const std::string meta = read_text(scratch / "x.meta.json");
  write_documents(scratch / "x", TokenDtype::kU16, {{{1}}});
  write_text(scratch / "x.meta.json", meta);
  CHECK(contains(message_of<DataError>([&] { IndexedFile file(scratch / "x"); }), "describes 7 tokens"));
  write_text(scratch / "x.meta.json", meta.substr(0, 40));
  CHECK(contains(message_of<DataError>([&] { IndexedFile file(scratch / "x"); }), "damaged side file"));
}

TEST_CASE("merged files equal one file of all documents") {
  const Scratch scratch;
  Documents both = kShort;
  both.insert(both.end(), kShort.begin(), kShort.end());
  const TokenizerIdentity tokenizer{5, 65536, 256};
  write_documents(scratch / "a", TokenDtype::kU16, kShort, tokenizer);
  write_documents(scratch / "b", TokenDtype::kU16, kShort, tokenizer);
  write_documents(scratch / "both", TokenDtype::kU16, both, tokenizer);
  merge_indexed({scratch / "a", scratch / "b"}, scratch / "merged");
  for (const std::string suffix : {".bin", ".idx", ".meta.json"}) {
    CHECK(read_text(scratch / "merged" + suffix) == read_text(scratch / "both" + suffix));
  }
  CHECK(prefixes_in(scratch / "") ==
        std::vector<std::string>{scratch / "a", scratch / "b", scratch / "both", scratch / "merged"});
  write_documents(scratch / "other", TokenDtype::kU16, kShort, TokenizerIdentity{6, 65536, 256});
  CHECK_THROWS_AS(merge_indexed({scratch / "a", scratch / "other"}, scratch / "m"), DataError);
  write_documents(scratch / "wide", TokenDtype::kI32, kWide);
  CHECK_THROWS_AS(merge_indexed({scratch / "a", scratch / "wide"}, scratch / "m"), DataError);
  CHECK_THROWS_AS(merge_indexed({scratch / "a"}, scratch / "a"), UsageError);
  write_documents(scratch / "plain", TokenDtype::kU16, kShort);
  merge_indexed({scratch / "a", scratch / "plain"}, scratch / "m");
  CHECK_FALSE(IndexedFile(scratch / "m").meta());
}

TEST_CASE("statistics of documents") {
  const DataStats stats = data_stats(IndexedFile(golden("short")));
  CHECK(stats.documents == 4);
  CHECK(stats.empty_documents == 1);
  CHECK(stats.tokens == 7);
  CHECK(stats.shortest == 0);
  CHECK(stats.longest == 3);
  CHECK(stats.mean == Approx(1.75));
}

}  // namespace megatron
