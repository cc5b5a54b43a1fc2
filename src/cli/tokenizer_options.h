// The options that say which tokenizer to use; shared by all sub-commands that read or write text.
#pragma once

#include "tokenizer/tokenizer.h"

namespace CLI {
class App;
}

namespace megatron {

/// Adds --tokenizer-type, --tokenizer-model, --vocab-file, --merge-file and --vocab-size to `command`. `spec` must
/// outlive the parse. Without a type, --tokenizer-model means HuggingFaceTokenizer and --vocab-file GPT2BPETokenizer.
void add_tokenizer_options(CLI::App& command, TokenizerSpec& spec);

/// To be called after the parse: fills in the type, and throws UsageError when options are missing or do not belong to
/// the type.
TokenizerSpec checked_tokenizer_spec(TokenizerSpec spec);

}  // namespace megatron
