// Data sets: endless, seekable sequences of token samples.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace megatron {

/// Sample number g (0, 1, 2, ... without end) is a pure function of the data, the seed and g, whatever the number of
/// ranks, workers or restarts. Thread-safe.
class Dataset {
 public:
  virtual ~Dataset() = default;

  /// S: tokens a sample trains on. A sample has S + 1 tokens: inputs are the first S, labels the last S.
  virtual int64_t seq_length() const = 0;

  /// Samples until each has come once.
  virtual int64_t samples_per_epoch() const = 0;

  /// Writes the S + 1 tokens of sample `global_sample` to `tokens`. DataError when they can't be right.
  virtual void read(int64_t global_sample, std::span<TokenId> tokens) const = 0;
};

using DatasetPtr = std::shared_ptr<const Dataset>;

/// What decides the three data sets of a training run; the fields are the keys of section `data`.
struct DataOptions {
  std::vector<std::string> data_path;  ///< prefixes, or weight and prefix in turn; cut by `split`
  std::string split = "969,30,1";
  std::vector<std::string> train_data_path, valid_data_path, test_data_path;  ///< instead of data_path and split
  bool mock_data = false;                                                     ///< made-up tokens, no files
  int64_t seq_length = 0;
  uint64_t seed = 1234;
};

/// Null where there is no such set: its share is 0, or `notes` says that its share is too small for one sample.
struct DataSplits {
  DatasetPtr train, valid, test;
  std::vector<std::string> notes;  ///< decisions to print: one sentence each
};

/// Opens the data sets and checks them against the tokenizer: by fingerprint where the side file of the data is there,
/// else the first and last tokens now and all others as they are read.
/// UsageError: contradictory options; DataError: bad files, another tokenizer, too few tokens to train on.
DataSplits open_datasets(const DataOptions& options, const Tokenizer& tokenizer);

}  // namespace megatron
