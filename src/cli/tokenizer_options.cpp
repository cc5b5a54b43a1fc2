#include "cli/tokenizer_options.h"

#include <CLI/CLI.hpp>

#include "base/error.h"
#include "base/strings.h"

namespace megatron {
namespace {

constexpr const char* kGroup = "Tokenizer";

}  // namespace

void add_tokenizer_options(CLI::App& command, TokenizerSpec& spec) {
  command
      .add_option(
          "--tokenizer-type", spec.tokenizer_type,
          "One of " + join(tokenizer_types(), ", ") +
              ". Default: HuggingFaceTokenizer with --tokenizer-model (SentencePieceTokenizer where that ends in "
              ".model), GPT2BPETokenizer with --vocab-file.")
      ->type_name("TYPE")
      ->group(kGroup);
  command
      .add_option("--tokenizer-model", spec.tokenizer_model,
                  "A tokenizer.json or a SentencePiece model, or the folder that holds it.")
      ->type_name("PATH")
      ->group(kGroup);
  command.add_option("--vocab-file", spec.vocab_file, "GPT2BPETokenizer: vocab.json.")
      ->type_name("FILE")
      ->group(kGroup);
  command.add_option("--merge-file", spec.merge_file, "GPT2BPETokenizer: merges.txt.")
      ->type_name("FILE")
      ->group(kGroup);
  command
      .add_option("--vocab-size", spec.vocab_size,
                  "NullTokenizer: number of ids; the next one is the end-of-document id.")
      ->type_name("N")
      ->group(kGroup);
}

TokenizerSpec checked_tokenizer_spec(TokenizerSpec spec) {
  if (spec.tokenizer_type.empty()) {
    if (!spec.tokenizer_model.empty()) {
      spec.tokenizer_type =
          ends_with(spec.tokenizer_model, ".model") ? "SentencePieceTokenizer" : "HuggingFaceTokenizer";
    } else if (!spec.vocab_file.empty() || !spec.merge_file.empty()) {
      spec.tokenizer_type = "GPT2BPETokenizer";
    } else {
      throw UsageError("no tokenizer given: use --tokenizer-model tokenizer.json, or --tokenizer-type");
    }
  }
  const std::string& type = spec.tokenizer_type;
  const auto refuse = [&](const char* option, bool given, const char* owner) {
    if (given && type != owner)
      throw UsageError(str_cat(option, " belongs to ", owner, ", but --tokenizer-type is ", type));
  };
  if (!is_sentencepiece_type(type)) {
    refuse("--tokenizer-model", !spec.tokenizer_model.empty(), "HuggingFaceTokenizer");
  }
  refuse("--vocab-file", !spec.vocab_file.empty(), "GPT2BPETokenizer");
  refuse("--merge-file", !spec.merge_file.empty(), "GPT2BPETokenizer");
  refuse("--vocab-size", spec.vocab_size != 0, "NullTokenizer");
  return spec;
}

}  // namespace megatron
