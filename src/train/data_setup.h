// Tokenizer and data sets of a run, from its configuration.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "config/config.h"
#include "data/batch.h"
#include "data/dataset.h"
#include "tokenizer/tokenizer.h"

namespace megatron {

struct RunData {
  std::shared_ptr<const Tokenizer> tokenizer;
  std::string tokenizer_fingerprint;                   ///< hexadecimal
  std::map<std::string, std::string> tokenizer_files;  ///< name in the checkpoint -> text: what generate needs
  int64_t vocab_size = 0;
  DataSplits splits;
  BatchOptions batch_options;
};

/// The tokenizer of section `data`.
TokenizerSpec tokenizer_spec(const Config& config);

/// Opens everything; DataError or UsageError with file and remedy.
RunData open_data(const Config& config);

/// Number of ids: model.vocab_size when it is set, else the tokenizer's. UsageError when the tokenizer has more ids
/// than the model.
int64_t true_vocab_size(const Config& config, const Tokenizer& tokenizer);

/// "0123456789abcdef".
std::string fingerprint_text(uint64_t fingerprint);

}  // namespace megatron
