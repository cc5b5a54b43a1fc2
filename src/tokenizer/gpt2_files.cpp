// Reads GPT-2's vocab.json and merges.txt, and writes tokenizer.json.
#include <nlohmann/json.hpp>
#include <string>

#include "base/check.h"
#include "base/error.h"
#include "base/file_io.h"
#include "base/strings.h"
#include "tokenizer/json_node.h"
#include "tokenizer/tokenizer_files.h"
#include "tokenizer/unicode.h"
#include "tokenizer/vocabulary_builder.h"

namespace megatron {
namespace {

constexpr const char* kEndOfText = "<|endoftext|>";

PreTokenizerStep gpt2_step() {
  PreTokenizerStep step;
  step.description = str_cat("pieces of ", scanner_pattern(ScannerKind::kGpt2));
  return step;
}

void read_merge_lines(const std::string& path, VocabularyBuilder& builder) {
  const std::vector<std::string> lines = split(read_file(path), '\n');
  for (size_t i = 0; i < lines.size(); ++i) {
    std::string_view line = lines[i];
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line.empty() || starts_with(line, "#version")) continue;
    const std::vector<std::string> halves = split(line, ' ');
    std::string fault;
    if (halves.size() != 2 || halves[0].empty() || halves[1].empty()) {
      fault = str_cat("a merge must be two tokens with one space between them, is '", line, "'");
    } else {
      fault = builder.add_merge(halves[0], halves[1]);
    }
    if (!fault.empty()) {
      throw DataError(str_cat(path, ":", i + 1, ": ", fault, ". Give the merges that belong to the vocabulary"));
    }
  }
}

/// JSON text of a string; what is not UTF-8 can't occur in byte letters or checked names.
std::string quoted(const std::string& text) {
  return nlohmann::json(text).dump();
}

std::string added_token_json(const AddedToken& token) {
  const auto flag = [](bool value) { return value ? "true" : "false"; };
  return str_cat("    {\n      \"id\": ", token.id, ",\n      \"content\": ", quoted(token.content),
                 ",\n      \"single_word\": ", flag(token.single_word), ",\n      \"lstrip\": ", flag(token.lstrip),
                 ",\n      \"rstrip\": ", flag(token.rstrip), ",\n      \"normalized\": ", flag(token.normalized),
                 ",\n      \"special\": ", flag(token.special), "\n    }");
}

}  // namespace

BpeDefinition read_gpt2_files(const std::string& vocab_file, const std::string& merge_file) {
  const nlohmann::json document = parse_json_file(vocab_file);
  const JsonNode root(document, vocab_file, "");
  if (!document.is_object()) root.fail("must be an object from token to id, as GPT-2's vocab.json is");
  BpeDefinition d;
  d.source = vocab_file;
  d.steps.push_back(gpt2_step());
  VocabularyBuilder builder(d);
  for (const auto& [token, id] : document.items()) {
    const JsonNode node(id, vocab_file, "/" + token);
    const std::string fault = builder.add(token, node.integer());
    if (!fault.empty()) node.fail(fault + ". The file is damaged: fetch or write it again");
  }
  if (const std::string fault = builder.check_ids(); !fault.empty()) root.fail(fault);
  read_merge_lines(merge_file, builder);
  if (const std::optional<TokenId> end = builder.find(kEndOfText)) {
    AddedToken token;
    token.id = *end;
    token.content = kEndOfText;
    token.special = true;
    MEGATRON_CHECK(builder.add_outside(token).empty(), "the end token is in the vocabulary");
    d.eod = end;
  }
  return d;
}

std::string tokenizer_json_text(const BpeDefinition& d) {
  std::string text = "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [";
  for (size_t i = 0; i < d.added.size(); ++i) text += (i == 0 ? "\n" : ",\n") + added_token_json(d.added[i]);
  text += str_cat(d.added.empty() ? "" : "\n  ", R"(],
  "normalizer": null,
  "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
  "post_processor": null,
  "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
  "model": {
    "type": "BPE",
    "dropout": null,
    "unk_token": null,
    "continuing_subword_prefix": null,
    "end_of_word_suffix": null,
    "fuse_unk": false,
    "byte_fallback": false,
    "ignore_merges": false,
    "vocab": {)");
  std::vector<std::string> written(d.tokens.size());
  for (size_t id = 0; id < d.tokens.size(); ++id) {
    MEGATRON_CHECK(!d.tokens[id].empty(), "a definition to be written has no holes");
    written[id] = d.mergeable[id] ? byte_level_encode(d.tokens[id]) : d.tokens[id];
    text += str_cat(id == 0 ? "\n      " : ",\n      ", quoted(written[id]), ": ", id);
  }
  text += "\n    },\n    \"merges\": [";
  for (size_t i = 0; i < d.merges.size(); ++i) {
    const Merge& merge = d.merges[i];
    const std::string pair = written[static_cast<size_t>(merge.left)] + " " + written[static_cast<size_t>(merge.right)];
    text += (i == 0 ? "\n      " : ",\n      ") + quoted(pair);
  }
  text += str_cat(d.merges.empty() ? "" : "\n    ", "]\n  }\n}\n");
  return text;
}

}  // namespace megatron
