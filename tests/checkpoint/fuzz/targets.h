// What is fuzzed: every reader of files that others may have made.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace megatron::fuzz {

struct Target {
  std::string name;
  /// Reads the bytes as a file. Nothing but a DataError may come out.
  std::function<void(std::string_view)> read;
  /// Files that are read without an error.
  std::vector<std::string> seeds;
};

/// Binary headers: safetensors, GGUF, SentencePiece.
std::vector<Target> header_targets();
/// Manifest, shards, config.json, tokenizer.json, and whole GGUF models.
std::vector<Target> json_targets();

}  // namespace megatron::fuzz
