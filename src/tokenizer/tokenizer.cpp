#include "tokenizer/tokenizer.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file_io.h"
#include "base/strings.h"
#include "tokenizer/bpe_tokenizer.h"
#include "tokenizer/json_node.h"
#include "tokenizer/sentencepiece_tokenizer.h"
#include "tokenizer/simple_tokenizers.h"
#include "tokenizer/tokenizer_files.h"
#include "tokenizer/tokenizer_json_parts.h"

namespace megatron {
namespace {

std::unique_ptr<Tokenizer> open_json(const std::string& path) {
  const nlohmann::json document = parse_json_file(path);
  if (has_byte_fallback(document)) {
    return std::make_unique<SentencePieceTokenizer>(sentencepiece_definition(document, path));
  }
  return std::make_unique<BpeTokenizer>(bpe_definition(document, path));
}

std::unique_ptr<Tokenizer> open_hugging_face(const std::string& model) {
  if (model.empty()) throw UsageError("HuggingFaceTokenizer needs tokenizer_model: a tokenizer.json or its folder");
  if (!path_exists(model)) {
    throw DataError(
        str_cat(model, ": no such file. Give the tokenizer.json of the model, or the folder that holds it"));
  }
  if (!directory_exists(model)) return open_json(model);
  const std::string json = path_join(model, "tokenizer.json");
  if (path_exists(json)) return open_json(json);
  const std::string vocab = path_join(model, "vocab.json"), merges = path_join(model, "merges.txt");
  if (path_exists(vocab) && path_exists(merges)) {
    return std::make_unique<BpeTokenizer>(read_gpt2_files(vocab, merges));
  }
  const bool sentence_piece = path_exists(path_join(model, kSentencePieceName));
  throw DataError(str_cat(model, ": holds neither tokenizer.json nor vocab.json with merges.txt",
                          sentence_piece ? "; for its tokenizer.model set tokenizer_type to Llama2Tokenizer or "
                                           "SentencePieceTokenizer"
                                         : ". Fetch the tokenizer.json of the model"));
}

/// Of the three names, Llama2Tokenizer puts the begin token before a prompt.
std::unique_ptr<Tokenizer> open_sentencepiece(const TokenizerSpec& spec) {
  if (spec.tokenizer_model.empty()) {
    throw UsageError(spec.tokenizer_type +
                     " needs tokenizer_model: a SentencePiece model (tokenizer.model) or its folder");
  }
  const bool folder = directory_exists(spec.tokenizer_model);
  SentencePieceDefinition d =
      read_sentencepiece_model(folder ? path_join(spec.tokenizer_model, kSentencePieceName) : spec.tokenizer_model);
  if (spec.tokenizer_type == "Llama2Tokenizer") {
    if (!d.begin) {
      throw DataError(str_cat(d.source,
                              ": the model has no begin piece (bos_id), which Llama2Tokenizer puts before "
                              "prompts; set tokenizer_type to SentencePieceTokenizer"));
    }
    d.prefix = {*d.begin};
  }
  return std::make_unique<SentencePieceTokenizer>(std::move(d));
}

BpeDefinition read_gpt2(const TokenizerSpec& spec) {
  if (spec.vocab_file.empty() || spec.merge_file.empty()) {
    throw UsageError("GPT2BPETokenizer needs vocab_file (vocab.json) and merge_file (merges.txt)");
  }
  return read_gpt2_files(spec.vocab_file, spec.merge_file);
}

}  // namespace

std::string Tokenizer::decode(const std::vector<TokenId>& ids) const {
  std::string text;
  for (TokenId id : ids) text += token_bytes(id);
  return text;
}

bool is_sentencepiece_type(const std::string& type) {
  return type == "SentencePieceTokenizer" || type == "GPTSentencePieceTokenizer" || type == "Llama2Tokenizer";
}

const std::vector<std::string>& tokenizer_types() {
  static const std::vector<std::string> types = {
      "HuggingFaceTokenizer", "GPT2BPETokenizer", "SentencePieceTokenizer", "GPTSentencePieceTokenizer",
      "Llama2Tokenizer",      "ByteTokenizer",    "NullTokenizer"};
  return types;
}

std::unique_ptr<Tokenizer> make_tokenizer(const TokenizerSpec& spec) {
  const std::string& type = spec.tokenizer_type;
  if (type == "HuggingFaceTokenizer") return open_hugging_face(spec.tokenizer_model);
  if (type == "GPT2BPETokenizer") return std::make_unique<BpeTokenizer>(read_gpt2(spec));
  if (is_sentencepiece_type(type)) return open_sentencepiece(spec);
  if (type == "ByteTokenizer") return std::make_unique<ByteTokenizer>();
  if (type == "NullTokenizer") return std::make_unique<NullTokenizer>(spec.vocab_size);
  const std::string near = closest_match(type, tokenizer_types());
  throw UsageError(str_cat("tokenizer_type '", type, "' is not supported",
                           near.empty() ? "" : str_cat("; did you mean '", near, "'?"),
                           " Supported: ", join(tokenizer_types(), ", ")));
}

}  // namespace megatron
