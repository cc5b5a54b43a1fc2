#include "train/data_setup.h"

#include <cstdio>

#include "base/error.h"
#include "base/file_io.h"
#include "base/strings.h"

namespace megatron {

TokenizerSpec tokenizer_spec(const Config& config) {
  TokenizerSpec spec;
  spec.tokenizer_type = config.data.tokenizer_type;
  spec.tokenizer_model = config.data.tokenizer_model;
  spec.vocab_file = config.data.vocab_file;
  spec.merge_file = config.data.merge_file;
  spec.vocab_size = config.model.vocab_size.value_or(0);
  if (spec.tokenizer_type == "NullTokenizer" && spec.vocab_size > 0) --spec.vocab_size;  // its last id ends documents
  return spec;
}

std::string fingerprint_text(uint64_t fingerprint) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(fingerprint));
  return text;
}

int64_t true_vocab_size(const Config& config, const Tokenizer& tokenizer) {
  const int64_t ids = tokenizer.vocab_size();
  if (!config.model.vocab_size) return ids;
  if (*config.model.vocab_size < ids) {
    throw UsageError(str_cat("model.vocab_size: ", *config.model.vocab_size, " is less than the tokenizer's ", ids,
                             " ids; leave the key out or raise it"));
  }
  return *config.model.vocab_size;
}

namespace {

/// The files a checkpoint carries so that text can be generated from it alone.
std::map<std::string, std::string> tokenizer_files(const TokenizerSpec& spec) {
  std::map<std::string, std::string> files;
  if (spec.tokenizer_type == "HuggingFaceTokenizer") {
    const std::string path = directory_exists(spec.tokenizer_model) ? path_join(spec.tokenizer_model, "tokenizer.json")
                                                                    : spec.tokenizer_model;
    files["tokenizer.json"] = read_file(path);
  } else if (is_sentencepiece_type(spec.tokenizer_type)) {
    const bool folder = directory_exists(spec.tokenizer_model);
    files[kSentencePieceName] =
        read_file(folder ? path_join(spec.tokenizer_model, kSentencePieceName) : spec.tokenizer_model);
  } else if (spec.tokenizer_type == "GPT2BPETokenizer") {
    files["vocab.json"] = read_file(spec.vocab_file);
    files["merges.txt"] = read_file(spec.merge_file);
  }
  return files;
}

}  // namespace

RunData open_data(const Config& config) {
  RunData data;
  const TokenizerSpec spec = tokenizer_spec(config);
  data.tokenizer = make_tokenizer(spec);
  data.tokenizer_fingerprint = fingerprint_text(data.tokenizer->fingerprint());
  data.tokenizer_files = tokenizer_files(spec);
  data.vocab_size = true_vocab_size(config, *data.tokenizer);
  DataOptions options;
  options.data_path = config.data.data_path;
  options.split = config.data.split;
  options.train_data_path = config.data.train_data_path;
  options.valid_data_path = config.data.valid_data_path;
  options.test_data_path = config.data.test_data_path;
  options.mock_data = config.data.mock_data;
  options.seq_length = config.model.seq_length;
  options.seed = static_cast<uint64_t>(config.run.seed);
  data.splits = open_datasets(options, *data.tokenizer);
  data.batch_options.eod = data.tokenizer->eod();
  data.batch_options.eod_mask_loss = config.data.eod_mask_loss;
  data.batch_options.reset_position_ids = config.data.reset_position_ids;
  data.batch_options.reset_attention_mask = config.data.reset_attention_mask;
  return data;
}

}  // namespace megatron
