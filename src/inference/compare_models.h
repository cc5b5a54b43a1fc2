// Do two forms of a model compute the same? Run on the CPU in fp32, layer by layer.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/model_source.h"

namespace megatron {

/// What a model makes of some tokens: the output of each layer, then "logits", by name, in the order of the model.
using Activations = std::vector<std::pair<std::string, std::vector<float>>>;

/// Runs `tokens` ([batch][S], equally long) through the model on the CPU in fp32, whatever its weights are stored in.
/// All weights are in memory meanwhile. Values are [S, batch, ...].
Activations run_model(const ModelSource& source, const std::vector<std::vector<TokenId>>& tokens);

/// Two sequences of ids of a vocabulary, the same every time.
std::vector<std::vector<TokenId>> probe_tokens(int64_t vocab_size, int64_t length);

struct ModelComparison {
  std::string first_difference;  ///< the first of the values above `bound`; empty: none
  double logits_error = 0;       ///< as below, of the logits
  double largest_error = 0;      ///< of any value: largest |a - b| / largest |a|
};

/// Compares what two models make of the same tokens. A value differs where largest |a - b| > bound * largest |a|.
ModelComparison compare_activations(const Activations& a, const Activations& b, double bound);

}  // namespace megatron
