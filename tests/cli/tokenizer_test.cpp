// The sub-command as users call it, within the process.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "base/error.h"
#include "base/file_io.h"
#include "cli/commands.h"
#include "tests/catch.h"
#include "tokenizer/tokenizer.h"

namespace megatron {
namespace {

void run(const std::vector<std::string>& words) {
  CLI::App app("test");
  add_tokenizer_command(app);
  std::vector<std::string> reversed(words.rbegin(), words.rend());
  app.parse(reversed);
}

struct Folder {
  std::string path =
      (std::filesystem::temp_directory_path() / ("megatron-tokenizer-cli-" + std::to_string(::getpid()))).string();
  Folder() { std::filesystem::create_directories(path); }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(path + "/" + name, std::ios::binary) << text;
    return path + "/" + name;
  }
};

std::unique_ptr<Tokenizer> load(const std::string& path) {
  TokenizerSpec spec;
  spec.tokenizer_type = "HuggingFaceTokenizer";
  spec.tokenizer_model = path;
  return make_tokenizer(spec);
}

TEST_CASE("tokenizer train writes a tokenizer that can be used") {
  const Folder folder;
  std::string text;
  for (int i = 0; i < 200; ++i) text += "the cat and the other cat number " + std::to_string(i) + "\n";
  const std::string input = folder.write("a.txt", text), output = folder.path + "/new/tokenizer.json";
  run({"tokenizer", "train", "--input", input, input, "--vocab-size", "300", "--output", output});
  const std::unique_ptr<Tokenizer> tokenizer = load(output);
  CHECK(tokenizer->vocab_size() == 300);
  CHECK(tokenizer->eod() == TokenId{0});
  CHECK(tokenizer->encode(" the cat").size() == 2);
  CHECK(tokenizer->decode(tokenizer->encode(text)) == text);

  run({"tokenizer", "train", "--input", input, "--vocab-size", "300", "--output", output, "--special-tokens", "[end]",
       "[pad]"});
  CHECK(load(output)->eod() == TokenId{0});
  CHECK(load(output)->encode("[pad]") == std::vector<TokenId>{1});
}

TEST_CASE("wrong calls of tokenizer are refused") {
  const Folder folder;
  const std::string input = folder.write("a.txt", "some text"), empty = folder.write("empty.txt", "");
  const std::string output = folder.path + "/tokenizer.json";
  const auto train = [&](std::vector<std::string> more) {
    std::vector<std::string> words = {"tokenizer", "train", "--output", output};
    words.insert(words.end(), more.begin(), more.end());
    run(words);
  };
  CHECK_THROWS_AS(train({"--input", input, "--vocab-size", "256"}), UsageError);
  CHECK_THROWS_AS(train({"--input", input, "--vocab-size", "300", "--special-tokens", "a", "a"}), UsageError);
  CHECK_THROWS_AS(train({"--input", input, "--vocab-size", "many"}), CLI::ParseError);
  CHECK_THROWS_AS(train({"--input", input, "--vocab-size", "300", "--workers", "0"}), CLI::ParseError);
  CHECK_THROWS_AS(train({"--input", input + "x", "--vocab-size", "300"}), DataError);
  CHECK_THROWS_AS(train({"--input", empty, "--vocab-size", "300"}), DataError);
  CHECK(!path_exists(output));
  CHECK_THROWS_AS(run({"tokenizer", "encode", "--text", "a"}), UsageError);
  CHECK_THROWS_AS(run({"tokenizer", "encode", "--tokenizer-type", "ByteTokenizer"}), UsageError);
  CHECK_THROWS_AS(run({"tokenizer", "encode", "--text", "a", "--tokenizer-type", "Byte"}), UsageError);
  CHECK_THROWS_AS(run({"tokenizer", "encode", "--text", "a", "--tokenizer-type", "ByteTokenizer", "--vocab-file", "x"}),
                  UsageError);
  CHECK_THROWS_AS(run({"tokenizer", "encode", "--text", "a", "--input", input, "--tokenizer-type", "ByteTokenizer"}),
                  CLI::ParseError);
  CHECK_THROWS_AS(run({"tokenizer", "decode", "--ids", "300", "--tokenizer-type", "ByteTokenizer"}), DataError);
  const std::string words = folder.write("ids.txt", "1 two");
  CHECK_THROWS_AS(run({"tokenizer", "decode", "--input", words, "--tokenizer-type", "ByteTokenizer"}), DataError);
}

}  // namespace
}  // namespace megatron
