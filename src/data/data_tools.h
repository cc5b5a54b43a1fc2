// Work on finished token files: merge, statistics, check.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/data_meta.h"
#include "data/indexed_file.h"

namespace megatron {

/// Prefixes of all complete pairs of files in a folder, sorted.
std::vector<std::string> prefixes_in(const std::string& folder);

/// Joins files in the given order to `<output_prefix>.bin/.idx`. All must have one type, and one tokenizer where their
/// side files tell; the result gets a side file when all inputs have one. DataError names the two that differ.
void merge_indexed(const std::vector<std::string>& prefixes, const std::string& output_prefix);

struct DataStats {
  TokenDtype dtype = TokenDtype::kU16;
  int64_t documents = 0, sequences = 0, tokens = 0, empty_documents = 0;
  int64_t bin_bytes = 0, idx_bytes = 0;
  int64_t shortest = 0, median = 0, p90 = 0, longest = 0;  ///< tokens in a document
  double mean = 0;
};

DataStats data_stats(const IndexedFile& file);

struct VerifyReport {
  TokenId max_token_id = 0;
  bool hashes_checked = false;  ///< only with a side file
};

/// Reads every token. DataError when an id is outside the vocabulary (of the side file, or `vocab_size` where given),
/// or when the bytes aren't those that were written (where the side file tells). The structure was checked by opening.
VerifyReport verify_data(const IndexedFile& file, std::optional<int64_t> vocab_size);

}  // namespace megatron
