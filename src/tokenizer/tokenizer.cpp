#include "tokenizer/tokenizer.h"

#include "base/error.h"
#include "base/file_io.h"
#include "base/strings.h"
#include "tokenizer/bpe_tokenizer.h"
#include "tokenizer/simple_tokenizers.h"
#include "tokenizer/tokenizer_files.h"

namespace megatron {
namespace {

BpeDefinition read_hugging_face(const std::string& model) {
  if (model.empty()) throw UsageError("HuggingFaceTokenizer needs tokenizer_model: a tokenizer.json or its folder");
  if (!path_exists(model)) {
    throw DataError(
        str_cat(model, ": no such file. Give the tokenizer.json of the model, or the folder that holds it"));
  }
  if (!directory_exists(model)) return read_tokenizer_json(model);
  const std::string json = path_join(model, "tokenizer.json");
  if (path_exists(json)) return read_tokenizer_json(json);
  const std::string vocab = path_join(model, "vocab.json"), merges = path_join(model, "merges.txt");
  if (path_exists(vocab) && path_exists(merges)) return read_gpt2_files(vocab, merges);
  const bool sentence_piece = path_exists(path_join(model, "tokenizer.model"));
  throw DataError(str_cat(model, ": holds neither tokenizer.json nor vocab.json with merges.txt",
                          sentence_piece ? "; its tokenizer.model is SentencePiece, which is not supported" : "",
                          ". Fetch the tokenizer.json of the model"));
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

const std::vector<std::string>& tokenizer_types() {
  static const std::vector<std::string> types = {"HuggingFaceTokenizer", "GPT2BPETokenizer", "ByteTokenizer",
                                                 "NullTokenizer"};
  return types;
}

std::unique_ptr<Tokenizer> make_tokenizer(const TokenizerSpec& spec) {
  const std::string& type = spec.tokenizer_type;
  if (type == "HuggingFaceTokenizer") return std::make_unique<BpeTokenizer>(read_hugging_face(spec.tokenizer_model));
  if (type == "GPT2BPETokenizer") return std::make_unique<BpeTokenizer>(read_gpt2(spec));
  if (type == "ByteTokenizer") return std::make_unique<ByteTokenizer>();
  if (type == "NullTokenizer") return std::make_unique<NullTokenizer>(spec.vocab_size);
  const std::string near = closest_match(type, tokenizer_types());
  throw UsageError(str_cat("tokenizer_type '", type, "' is not supported",
                           near.empty() ? "" : str_cat("; did you mean '", near, "'?"),
                           " Supported: ", join(tokenizer_types(), ", ")));
}

}  // namespace megatron
