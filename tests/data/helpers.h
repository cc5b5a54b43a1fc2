// Small tokenizers and a scratch folder for the tests of this room.
#pragma once

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <unistd.h>

#include "base/error.h"
#include "tests/catch.h"
#include "tokenizer/tokenizer.h"

namespace megatron {

/// One id a byte, end of document 256.
class BytesTokenizer : public Tokenizer {
 public:
  std::vector<TokenId> encode(std::string_view text) const override {
    std::vector<TokenId> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::string token_bytes(TokenId id) const override {
    return id < 256 ? std::string(1, static_cast<char>(id)) : "<eod>";
  }
  int64_t vocab_size() const override { return 257; }
  std::optional<TokenId> eod() const override { return 256; }
  uint64_t fingerprint() const override { return 1; }
};

/// Ids depend on whole words with the space before them, and on whole runs of white space, as byte-level BPE's do: the
/// id is a hash of the piece. Cutting inside a piece changes ids.
class WordsTokenizer : public Tokenizer {
 public:
  std::vector<TokenId> encode(std::string_view text) const override {
    std::vector<TokenId> ids;
    const auto space = [&](size_t i) { return std::isspace(static_cast<unsigned char>(text[i])) != 0; };
    for (size_t i = 0; i < text.size();) {
      size_t end = i + 1;
      if (space(i) && !(text[i] == ' ' && end < text.size() && !space(end))) {
        while (end < text.size() && space(end)) ++end;
        // The last space of a run belongs to the word behind it.
        if (end < text.size() && end - i > 1 && text[end - 1] == ' ') --end;
      } else {
        while (end < text.size() && !space(end)) ++end;
      }
      uint64_t hash = 7;
      for (; i < end; ++i) hash = hash * 1000003 + static_cast<unsigned char>(text[i]);
      ids.push_back(static_cast<TokenId>(hash % 100000));
    }
    return ids;
  }
  std::string token_bytes(TokenId) const override { return ""; }
  int64_t vocab_size() const override { return 100001; }
  std::optional<TokenId> eod() const override { return 100000; }
  uint64_t fingerprint() const override { return 2; }
};

/// Puts a begin token in front of every text, so that no cut is safe.
class BeginTokenizer : public BytesTokenizer {
 public:
  std::vector<TokenId> encode(std::string_view text) const override {
    std::vector<TokenId> ids = BytesTokenizer::encode(text);
    ids.insert(ids.begin(), 257);
    return ids;
  }
  int64_t vocab_size() const override { return 258; }
  uint64_t fingerprint() const override { return 3; }
};

/// A folder that is removed at the end of the test.
class Scratch {
 public:
  Scratch() {
    std::string name = (std::filesystem::temp_directory_path() / "megatron-data-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~Scratch() { std::filesystem::remove_all(path_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path_))
      names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  std::string path_;
};

inline std::string read_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  REQUIRE(in.good());
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

inline void write_text(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

inline std::string golden(const std::string& name) {
  return MEGATRON_SOURCE_DIR "/tests/data/golden/" + name;
}

/// The message of the error of type E that `body` throws; fails when it throws none or another.
template <typename E, typename Body>
std::string message_of(const Body& body) {
  try {
    body();
  } catch (const E& error) {
    return error.what();
  }
  FAIL("nothing was thrown");
  return "";
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace megatron
