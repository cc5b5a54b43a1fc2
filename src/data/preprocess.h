// From text to indexed token files.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace megatron {

enum class InputFormat { kAuto, kText, kJsonl };

struct PreprocessOptions {
  std::vector<std::string> inputs;          ///< files in this order; "-" is standard input
  std::string output_prefix;                ///< text: <prefix>_document, JSONL: <prefix>_<key>_document
  InputFormat format = InputFormat::kAuto;  ///< auto: JSONL for names in .jsonl, .json, .ndjson, else text
  std::vector<std::string> json_keys = {"text"};
  std::string document_separator;      ///< text only; empty: each file is one document
  bool append_eod = false;             ///< end-of-document id after each document that has a token
  bool include_special_tokens = true;  ///< what the tokenizer's own post-processor puts around a text, as upstream
  int workers = 1;                     ///< encoding threads; the output doesn't depend on them
  int64_t item_bytes = 1 << 18;        ///< text handed to a worker at a time
  int64_t document_limit_bytes = int64_t{1} << 30;  ///< longest text kept in memory where no safe cut exists
  double report_seconds = 5;                        ///< time between two calls of `progress`
};

struct PreprocessProgress {
  int64_t input_bytes = 0, total_bytes = -1;  ///< total -1: not known (pipe)
  int64_t tokens = 0, documents = 0;
  double seconds = 0;
};

struct PreprocessReport {
  PreprocessProgress totals;
  int64_t empty_documents = 0;        ///< documents without a token; they are kept as empty documents, as upstream
  std::vector<std::string> prefixes;  ///< one for each key
};

/// Tokenises all inputs. Memory is bounded by about (2 workers + 2) * item_bytes, whatever the size of the input, as
/// long as single JSON lines and unbreakable documents are small.
/// UsageError: contradictory options. DataError: unreadable input or a malformed line ("file:line"), no token at all.
PreprocessReport preprocess(const PreprocessOptions& options, const Tokenizer& tokenizer,
                            const std::function<void(const PreprocessProgress&)>& progress = {});

/// "12.0 MB of 40.0 MB (30 %) | 11.2 MB/s | 2.9 M tokens/s | 123 documents | 2.5s left"
std::string format_progress(const PreprocessProgress& progress);

}  // namespace megatron
