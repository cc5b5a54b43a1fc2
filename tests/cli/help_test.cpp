// Help of every command: complete, with a description of each option.
#include <algorithm>
#include <map>
#include <regex>
#include <sstream>

#include "tests/catch.h"
#include "tests/cli/command.h"

namespace megatron::testing {
namespace {

/// Words below the heading "Subcommands:".
std::vector<std::string> subcommands(const std::string& help) {
  std::vector<std::string> names;
  std::istringstream stream(help);
  bool within = false;
  for (std::string line; std::getline(stream, line);) {
    if (line == "Subcommands:") within = true;
    std::smatch match;
    if (within && std::regex_match(line, match, std::regex("  ([a-z-]+)( .*)?"))) names.push_back(match[1]);
  }
  return names;
}

/// Lines of options without any words that say what they do.
std::vector<std::string> unexplained(const std::string& help) {
  std::vector<std::string> lines, bad;
  std::istringstream stream(help);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  for (size_t i = 0; i < lines.size(); ++i) {
    if (!lines[i].starts_with("  -")) continue;
    const bool beside = lines[i].size() > 30 && lines[i].substr(0, 30).ends_with(" ");
    const bool below = i + 1 < lines.size() && lines[i + 1].starts_with("          ");
    if (!beside && !below) bad.push_back(lines[i]);
  }
  return bad;
}

const std::map<std::string, std::vector<std::string>> kCommands = {
    {"bench comm", {"--check", "--device", "--dtype", "--machine"}},
    {"bench ops", {"--mode", "--op", "--dtype", "--machine"}},
    {"bench step", {"--config", "--steps", "--ops", "--no-comm", "--json"}},
    {"checkpoint verify", {"DIR"}},
    {"checkpoint inspect", {"--tensors", "--diff"}},
    {"config show", {"--config", "--set", "--origin"}},
    {"config explain", {"KEY"}},
    {"config schema", {}},
    {"config from-megatron-args", {"--file"}},
    {"convert", {"--from", "--to", "--format", "--dtype", "--ckpt-step", "--verify"}},
    {"data merge", {"--input", "--output-prefix"}},
    {"data stats", {"PREFIX"}},
    {"data show", {"--document", "--limit", "--decode", "--tokenizer-type"}},
    {"data samples", {"--config", "--set", "--count", "--first", "--split", "--output"}},
    {"data verify", {"--vocab-size"}},
    {"doctor", {"--device", "--dir", "--json"}},
    {"finetune", {"--config", "--set", "--dry-run"}},
    {"generate",
     {"--load", "--ckpt-step", "--prompt", "--prompts", "--num-tokens-to-generate", "--temperature", "--top-k",
      "--top-p", "--repetition-penalty", "--seed", "--stop", "--greedy", "--ignore-eod", "--no-echo",
      "--tensor-model-parallel-size", "--pipeline-model-parallel-size", "--device", "--cpu-threads"}},
    {"plan", {"--world-size", "--rank", "--config", "--set", "--print-program", "--simulate", "--machine"}},
    {"preprocess",
     {"--input", "--output-prefix", "--json-keys", "--workers", "--append-eod", "--tokenizer-type", "--tokenizer-model",
      "--document-separator"}},
    {"pretrain", {"--config", "--set", "--dry-run"}},
    {"tokenizer train", {"--input", "--vocab-size", "--output", "--special-tokens"}},
    {"tokenizer encode", {"--text", "--input"}},
    {"tokenizer decode", {"--input"}},
    {"validate", {"--config", "--world-size", "--check-files"}},
};

/// All commands that do something, as "data merge".
std::vector<std::string> all_commands(const Workspace& work, const std::vector<std::string>& path) {
  std::vector<std::string> words = path;
  words.emplace_back("--help");
  const std::vector<std::string> below = subcommands(work.succeed(words));
  std::vector<std::string> found;
  if (below.empty()) {
    std::string name;
    for (const std::string& word : path) name += (name.empty() ? "" : " ") + word;
    return {name};
  }
  for (const std::string& name : below) {
    std::vector<std::string> deeper = path;
    deeper.push_back(name);
    for (const std::string& command : all_commands(work, deeper)) found.push_back(command);
  }
  return found;
}

TEST_CASE("help of every command names and explains its options") {
  const Workspace work;
  std::vector<std::string> expected;
  for (const auto& [name, options] : kCommands) {
    expected.push_back(name);
    std::vector<std::string> words;
    std::istringstream stream(name);
    for (std::string word; stream >> word;) words.push_back(word);
    words.emplace_back("--help");
    const std::string help = work.succeed(words);
    INFO(name << "\n" << help);
    for (const std::string& option : options) CHECK(has(help, option));
    CHECK(unexplained(help).empty());
    words.back() = "-h";
    CHECK(work.succeed(words) == help);
  }
  std::vector<std::string> found = all_commands(work, {});
  std::sort(found.begin(), found.end());
  std::sort(expected.begin(), expected.end());
  CHECK(found == expected);  // a new command belongs into the table above
}

TEST_CASE("megatron --help lists the commands, --version says which program this is") {
  const Workspace work;
  const std::string help = work.succeed({"--help"});
  for (const char* name : {"bench", "checkpoint", "config", "data", "doctor", "finetune", "generate", "plan",
                           "preprocess", "pretrain", "tokenizer", "validate"}) {
    CHECK(has(help, std::string("\n  ") + name + " "));
  }
  CHECK(work.succeed({"--version"}).starts_with("megatron 0."));
}

}  // namespace
}  // namespace megatron::testing
