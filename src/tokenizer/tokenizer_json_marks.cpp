// A tokenizer.json of LLaMA 2's kind: BPE with byte fallback on text whose spaces are marks.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "base/error.h"
#include "base/log.h"
#include "base/strings.h"
#include "tokenizer/tokenizer_json_parts.h"

namespace megatron {
namespace {

using Ids = std::unordered_map<std::string, TokenId>;

constexpr int64_t kMostIds = int64_t{1} << 24;

/// A place in the list of pieces; what is not there yet has no text.
SentencePiece& place(SentencePieceDefinition& d, const JsonNode& node, int64_t id) {
  if (id < 0 || id >= kMostIds) node.fail(str_cat("the id ", id, " is outside 0 to ", kMostIds - 1));
  if (static_cast<size_t>(id) >= d.pieces.size()) d.pieces.resize(static_cast<size_t>(id) + 1);
  return d.pieces[static_cast<size_t>(id)];
}

void read_vocabulary(const JsonNode& model, SentencePieceDefinition& d, Ids& ids) {
  const JsonNode vocab = model.at("vocab");
  if (!vocab.value().is_object()) vocab.fail("must be an object from token to id");
  for (const auto& [token, number] : vocab.value().items()) {
    const JsonNode node(number, model.file(), vocab.pointer() + "/" + token);
    const int64_t id = node.integer();
    if (token.empty()) node.fail("a token is empty");
    SentencePiece& piece = place(d, node, id);
    if (!piece.text.empty()) node.fail(str_cat("the id ", id, " is that of '", piece.text, "' too"));
    piece.text = token;
    if (piece_byte(token)) piece.kind = PieceKind::kByte;
    ids[token] = static_cast<TokenId>(id);
  }
}

void read_merges(const JsonNode& model, SentencePieceDefinition& d, const Ids& ids) {
  const JsonNode merges = model.at("merges");
  const size_t count = merges.array_size();
  d.merges.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    const JsonNode merge = merges.item(i);
    std::string left, right;
    if (merge.value().is_array()) {
      if (merge.array_size() != 2) merge.fail("a merge must have two halves");
      left = merge.item(0).string();
      right = merge.item(1).string();
    } else {
      const size_t space = merge.string().find(' ');
      left = merge.string().substr(0, space);
      if (space != std::string::npos) right = merge.string().substr(space + 1);
    }
    const auto id = [&](const std::string& token) {
      const auto found = ids.find(token);
      if (found == ids.end())
        merge.fail(str_cat("'", token, "' is not in the vocabulary. The file is damaged: fetch it again"));
      return found->second;
    };
    d.merges.push_back({id(left), id(right), id(left + right)});
  }
}

void read_normalizer(const JsonNode& node, SentencePieceDefinition& d) {
  const std::string type = node.type();
  if (type == "Sequence") {
    const JsonNode list = node.at("normalizers");
    for (size_t i = 0; i < list.array_size(); ++i) read_normalizer(list.item(i), d);
  } else if (type == "Prepend" && node.at("prepend").string() == kSpaceMark && !d.mark_spaces) {
    d.dummy_prefix = DummyPrefix::kAlways;
  } else if (type == "Replace" && node.at("content").string() == kSpaceMark &&
             node.at("pattern").at("String").string() == " ") {
    d.mark_spaces = true;
  } else {
    refuse_part(node, str_cat("the normalizer ", type, " in this place"));
  }
}

void read_metaspace(const JsonNode& node, SentencePieceDefinition& d) {
  if (node.type() != "Metaspace") refuse_part(node.at("type"), str_cat("the pre-tokenizer ", node.type()));
  if (node.at("replacement").string() != kSpaceMark) refuse_part(node.at("replacement"), "this replacement of spaces");
  if (node.boolean("split", true)) refuse_part(node, "Metaspace with split");
  const std::optional<JsonNode> scheme = node.get("prepend_scheme");
  const std::string name = scheme ? scheme->string() : "always";
  if (name != "always" && name != "first" && name != "never") refuse_part(*scheme, "the prepend_scheme " + name);
  if (d.mark_spaces || d.dummy_prefix != DummyPrefix::kNever) refuse_part(node, "Metaspace behind such a normalizer");
  d.dummy_prefix = name == "first"    ? DummyPrefix::kFirst
                   : name == "always" ? DummyPrefix::kAlways
                                      : DummyPrefix::kNever;
  d.mark_spaces = true;
  d.skip_prefix_before_mark = true;
}

/// Marks become spaces and byte pieces bytes whatever it says; it tells whether the first space goes.
void read_decoder(const JsonNode& node, SentencePieceDefinition& d) {
  const std::string type = node.type();
  if (type == "Sequence") {
    const JsonNode list = node.at("decoders");
    for (size_t i = 0; i < list.array_size(); ++i) read_decoder(list.item(i), d);
  } else if (type == "Strip") {
    const bool known =
        node.at("content").string() == " " && node.at("start").integer() == 1 && node.at("stop").integer() == 0;
    if (!known) refuse_part(node, "a Strip decoder that takes more than one space from the beginning");
    d.strip_space = true;
  } else if (type == "Metaspace") {
    const std::optional<JsonNode> scheme = node.get("prepend_scheme");
    d.strip_space = !scheme || scheme->string() != "never";
  } else if (type == "Replace") {
    const bool known = node.at("content").string() == " " && node.at("pattern").at("String").string() == kSpaceMark;
    if (!known) refuse_part(node, "a Replace decoder of something else than space marks");
  } else if (type != "ByteFallback" && type != "Fuse") {
    refuse_part(node.at("type"), str_cat("the decoder ", type));
  }
}

void read_model(const JsonNode& model, SentencePieceDefinition& d, Ids& ids) {
  for (const char* mark : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const std::optional<JsonNode> text = model.get(mark);
    if (text && !text->string().empty()) refuse_part(*text, str_cat("the ", mark, " '", text->string(), "'"));
  }
  if (const std::optional<JsonNode> dropout = model.get("dropout")) {
    if (!dropout->value().is_number() || dropout->value().get<double>() != 0.0) {
      dropout->fail("BPE dropout makes ids random and is not supported. Set it to null");
    }
  }
  d.ignore_merges = model.boolean("ignore_merges", false);
  d.fuse_unknown = model.boolean("fuse_unk", false);
  read_vocabulary(model, d, ids);
  read_merges(model, d, ids);
  const JsonNode unknown = model.at("unk_token");
  const auto found = ids.find(unknown.string());
  if (found == ids.end()) unknown.fail(str_cat("'", unknown.string(), "' is not in the vocabulary"));
  d.unknown = found->second;
  d.unknown_surface = unknown.string();
  d.pieces[static_cast<size_t>(d.unknown)].kind = PieceKind::kUnknown;
}

void read_added(const JsonNode& root, SentencePieceDefinition& d, Ids& ids) {
  for_each_added_token(root, [&](const JsonNode& node, const AddedToken& token) {
    if (token.content.empty()) node.fail("a token is empty");
    SentencePiece& piece = place(d, node, token.id);
    if (!piece.text.empty() && piece.text != token.content) {
      node.fail(str_cat("the id ", token.id, " is that of '", piece.text, "' too"));
    }
    piece.text = token.content;
    if (token.special && token.id != d.unknown) piece.kind = PieceKind::kControl;
    ids[token.content] = token.id;
    d.added.push_back(token);
  });
  const auto hole = std::find_if(d.pieces.begin(), d.pieces.end(), [](const auto& p) { return p.text.empty(); });
  if (hole != d.pieces.end()) {
    root.at("model").fail(
        str_cat("no token has the id ", hole - d.pieces.begin(), ". The file is damaged: fetch it again"));
  }
}

}  // namespace

bool has_byte_fallback(const nlohmann::json& document) {
  const nlohmann::json::json_pointer place("/model/byte_fallback");
  return document.is_object() && document.contains(place) && document[place] == true;
}

SentencePieceDefinition sentencepiece_definition(const nlohmann::json& document, const std::string& path) {
  const JsonNode root(document, path, "");
  SentencePieceDefinition d;
  d.source = path;
  d.by_rank = d.byte_fallback = true;
  d.collapse_spaces = d.mark_spaces = false;
  d.dummy_prefix = DummyPrefix::kNever;
  Ids ids;
  const JsonNode model = root.at("model");
  if (model.type() != "BPE")
    refuse_part(model.at("type"), str_cat("the model type ", model.type(), " with byte_fallback"));
  read_model(model, d, ids);
  read_added(root, d, ids);
  if (const auto node = root.get("normalizer")) read_normalizer(*node, d);
  if (const auto node = root.get("pre_tokenizer")) read_metaspace(*node, d);
  if (!d.mark_spaces) refuse_part(root, "byte_fallback without a normalizer or Metaspace that marks spaces");
  d.strip_space = false;
  if (const auto node = root.get("decoder")) read_decoder(*node, d);
  if (const auto node = root.get("post_processor")) read_post_processor(*node, d.prefix, d.suffix);
  for (const auto* around : {&d.prefix, &d.suffix}) {
    for (const TokenId id : *around) {
      if (static_cast<size_t>(id) >= d.pieces.size()) {
        root.at("post_processor").fail(str_cat("names id ", id, ", which no token has"));
      }
    }
  }
  for (const char* key : {"truncation", "padding"}) {
    if (root.get(key))
      log_warn(str_cat(path, ": /", key, " is ignored: texts keep all their tokens and get no others"));
  }
  const EndTokens end = find_end_tokens(path, d.added, [&](const std::string& token) -> std::optional<TokenId> {
    const auto found = ids.find(token);
    return found == ids.end() ? std::nullopt : std::optional(found->second);
  });
  d.end = end.eod;
  d.pad = end.pad;
  check_sentencepiece(d);
  return d;
}

}  // namespace megatron
