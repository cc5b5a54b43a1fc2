// Families: from the configuration to the model as data.
#pragma once

#include <cstdint>

#include "config/config.h"
#include "nn/specs.h"

namespace megatron {

/// The spec of `config.model` for a tokenizer of `vocab_size` ids. UsageError for a family that does not exist.
ModelSpec make_model_spec(const Config& config, int64_t vocab_size);

/// Number of trained parameters, without padding rows of the vocabulary.
int64_t parameter_count(const ModelSpec& spec);

/// Model FLOPs of one token, forward and backward: 6 per weight of every matrix product (the output layer included),
/// and 6 s h d per layer for causal attention (half of the full square; a window counts what it sees). Recomputation
/// does not count (Narayanan et al., arXiv:2104.04473, equation 3, with the real sizes).
double flops_per_token(const ModelSpec& spec);

}  // namespace megatron
