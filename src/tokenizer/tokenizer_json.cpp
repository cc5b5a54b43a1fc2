// Reads a Hugging Face tokenizer.json.
#include <cstdint>
#include <nlohmann/json.hpp>

#include "base/file_io.h"
#include "base/log.h"
#include "base/strings.h"
#include "tokenizer/json_node.h"
#include "tokenizer/tokenizer_files.h"
#include "tokenizer/tokenizer_json_parts.h"
#include "tokenizer/vocabulary_builder.h"

namespace megatron {
namespace {

[[noreturn]] void refuse(const JsonNode& node, const std::string& what) {
  refuse_part(node, what);
}

void check(const JsonNode& node, const std::string& fault) {
  if (!fault.empty()) node.fail(fault + ". The file is damaged: fetch or write it again");
}

void read_vocabulary(const JsonNode& model, VocabularyBuilder& builder) {
  const JsonNode vocab = model.at("vocab");
  if (!vocab.value().is_object()) vocab.fail("must be an object from token to id");
  for (const auto& [token, id] : vocab.value().items()) {
    const JsonNode node(id, model.file(), vocab.pointer() + "/" + token);
    check(node, builder.add(token, node.integer()));
  }
}

/// Either "left right" or ["left", "right"].
void read_merges(const JsonNode& model, VocabularyBuilder& builder) {
  const JsonNode merges = model.at("merges");
  const size_t count = merges.array_size();
  for (size_t i = 0; i < count; ++i) {
    const JsonNode merge = merges.item(i);
    if (merge.value().is_array()) {
      if (merge.array_size() != 2) merge.fail("a merge must have two halves");
      check(merge, builder.add_merge(merge.item(0).string(), merge.item(1).string()));
      continue;
    }
    const std::string& text = merge.string();
    const size_t space = text.find(' ');
    if (space == 0 || space == text.npos || space + 1 == text.size() || text.find(' ', space + 1) != text.npos) {
      merge.fail(str_cat("a merge must be two tokens with one space between them, is '", text, "'"));
    }
    check(merge, builder.add_merge(text.substr(0, space), text.substr(space + 1)));
  }
}

void read_model(const JsonNode& model, BpeDefinition& d, VocabularyBuilder& builder) {
  const std::optional<JsonNode> type = model.get("type");
  if (type && type->string() != "BPE") refuse(*type, str_cat("the model type ", type->string()));
  if (!type && !model.get("merges")) model.fail("has neither 'type' nor 'merges': this is no BPE tokenizer");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const std::optional<JsonNode> mark = model.get(key);
    if (mark && !mark->string().empty()) refuse(*mark, str_cat("the ", key, " '", mark->string(), "'"));
  }
  if (const std::optional<JsonNode> dropout = model.get("dropout")) {
    if (!dropout->value().is_number() || dropout->value().get<double>() != 0.0) {
      dropout->fail("BPE dropout makes ids random and is not supported. Set it to null");
    }
  }
  if (model.boolean("byte_fallback", false)) refuse(model.at("byte_fallback"), "byte_fallback");
  d.options.ignore_merges = model.boolean("ignore_merges", false);
  d.options.fuse_unknown = model.boolean("fuse_unk", false);
  read_vocabulary(model, builder);
  read_merges(model, builder);
  const std::optional<JsonNode> unknown = model.get("unk_token");
  if (unknown && !unknown->string().empty()) {
    d.options.unknown = builder.find(unknown->string());
    if (!d.options.unknown) unknown->fail(str_cat("'", unknown->string(), "' is not in the vocabulary"));
  }
}

void read_added_tokens(const JsonNode& root, VocabularyBuilder& builder) {
  for_each_added_token(root,
                       [&](const JsonNode& node, const AddedToken& token) { check(node, builder.add_outside(token)); });
}

void read_normalizer(const JsonNode& node, BpeDefinition& d) {
  const std::string type = node.type();
  if (type == "NFC") {
    d.nfc = true;
  } else if (type == "Sequence") {
    const JsonNode list = node.at("normalizers");
    for (size_t i = 0; i < list.array_size(); ++i) read_normalizer(list.item(i), d);
  } else {
    node.at("type").fail(str_cat("the normalizer ", type, " is not supported. Supported are null and NFC"));
  }
}

SplitBehavior behavior_of(const JsonNode& node) {
  const std::string& name = node.string();
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  node.fail(str_cat("unknown behavior '", name, "'"));
}

PreTokenizerStep scanner_step(ScannerKind kind) {
  PreTokenizerStep step;
  step.scanner_kind = kind;
  step.description = str_cat("pieces of ", scanner_pattern(kind));
  return step;
}

PreTokenizerStep read_split(const JsonNode& node) {
  PreTokenizerStep step;
  step.behavior = behavior_of(node.at("behavior"));
  step.invert = node.boolean("invert", false);
  const JsonNode pattern = node.at("pattern");
  const std::optional<JsonNode> regex = pattern.get("Regex");
  const std::string& text = regex ? regex->string() : pattern.at("String").string();
  if (text.empty()) pattern.fail("the pattern is empty");
  // The scanners' patterns match every character, so that nothing lies between the matches.
  const bool keeps_matches =
      step.behavior == SplitBehavior::kIsolated || (step.behavior == SplitBehavior::kRemoved && step.invert);
  if (regex && keeps_matches) {
    if (const std::optional<ScannerKind> kind = scanner_for_pattern(text)) return scanner_step(*kind);
  }
  step.kind = regex ? PreTokenizerStep::Kind::kRegex : PreTokenizerStep::Kind::kLiteral;
  step.description =
      str_cat(regex ? "regex " : "text ", static_cast<int>(step.behavior), step.invert ? "! " : " ", text);
  if (regex) {
    step.regex = std::make_shared<const Regex>(text, str_cat(regex->file(), ": ", regex->pointer()));
  } else {
    step.literal = text;
  }
  return step;
}

/// `byte_level`: whether a ByteLevel step was there; behind it the text is written in byte letters.
void read_pre_tokenizer(const JsonNode& node, BpeDefinition& d, bool& byte_level) {
  const std::string type = node.type();
  if (byte_level) refuse(node, "a pre-tokenizer behind ByteLevel");
  if (type == "Sequence") {
    const JsonNode list = node.at("pretokenizers");
    for (size_t i = 0; i < list.array_size(); ++i) read_pre_tokenizer(list.item(i), d, byte_level);
  } else if (type == "ByteLevel") {
    if (node.boolean("add_prefix_space", true)) {
      PreTokenizerStep step;
      step.kind = PreTokenizerStep::Kind::kPrefixSpace;
      step.description = "prefix space";
      d.steps.push_back(step);
    }
    if (node.boolean("use_regex", true)) d.steps.push_back(scanner_step(ScannerKind::kGpt2));
    byte_level = true;
  } else if (type == "Split") {
    d.steps.push_back(read_split(node));
  } else if (type == "Digits") {
    PreTokenizerStep step;
    step.kind = PreTokenizerStep::Kind::kDigits;
    step.individual_digits = node.boolean("individual_digits", false);
    step.description = step.individual_digits ? "digits one by one" : "digits";
    d.steps.push_back(step);
  } else {
    refuse(node.at("type"), str_cat("the pre-tokenizer ", type));
  }
}

void check_decoder(const JsonNode& node) {
  if (node.type() == "ByteLevel") return;
  if (node.type() != "Sequence") refuse(node.at("type"), str_cat("the decoder ", node.type()));
  const JsonNode list = node.at("decoders");
  for (size_t i = 0; i < list.array_size(); ++i) check_decoder(list.item(i));
}

void check_post_processor_ids(const JsonNode& root, const BpeDefinition& d) {
  for (const auto* ids : {&d.prefix, &d.suffix}) {
    for (TokenId id : *ids) {
      const bool known = static_cast<size_t>(id) < d.tokens.size() && !d.tokens[static_cast<size_t>(id)].empty();
      if (!known) root.at("post_processor").fail(str_cat("names id ", id, ", which no token has"));
    }
  }
}

}  // namespace

BpeDefinition read_tokenizer_json(const std::string& path) {
  return parse_tokenizer_json(read_file(path), path);
}

BpeDefinition parse_tokenizer_json(const std::string& text, const std::string& path) {
  return bpe_definition(parse_json_text(text, path), path);
}

BpeDefinition bpe_definition(const nlohmann::json& document, const std::string& path) {
  const JsonNode root(document, path, "");
  BpeDefinition d;
  d.source = path;
  VocabularyBuilder builder(d);
  read_model(root.at("model"), d, builder);
  read_added_tokens(root, builder);
  check(root.at("model"), builder.check_ids());
  if (const auto node = root.get("normalizer")) read_normalizer(*node, d);
  bool byte_level = false;
  if (const auto node = root.get("pre_tokenizer")) read_pre_tokenizer(*node, d, byte_level);
  if (!byte_level) refuse(root, "a tokenizer without a ByteLevel pre-tokenizer");
  if (const auto node = root.get("decoder")) check_decoder(*node);
  if (const auto node = root.get("post_processor")) read_post_processor(*node, d.prefix, d.suffix);
  check_post_processor_ids(root, d);
  for (const char* key : {"truncation", "padding"}) {
    if (root.get(key))
      log_warn(str_cat(path, ": /", key, " is ignored: texts keep all their tokens and get no others"));
  }
  const EndTokens end = find_end_tokens(path, d.added, [&](const std::string& token) { return builder.find(token); });
  d.eod = end.eod;
  d.pad = end.pad;
  return d;
}

}  // namespace megatron
