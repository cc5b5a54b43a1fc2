// A sound configuration that the tests bend.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "config/load.h"

namespace megatron::test {

inline const char* const kSound = R"(
model: {num_layers: 4, hidden_size: 64, num_attention_heads: 4, seq_length: 32, vocab_size: 300}
data: {mock_data: true}
training: {micro_batch_size: 2, global_batch_size: 8, train_iters: 100}
optimizer: {lr: 0.001}
)";

/// The message of the UsageError, or an empty string when there is none.
template <typename Work>
std::string error_of(Work&& work) {
  try {
    work();
  } catch (const UsageError& error) {
    return error.what();
  }
  return "";
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace megatron::test
