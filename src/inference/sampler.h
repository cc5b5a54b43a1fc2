// From logits to the next token.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace megatron {

struct SamplingOptions {
  double temperature = 1.0;  ///< logits are divided by it; 0: always the most likely token
  int64_t top_k = 0;         ///< only the k most likely tokens; 0: all
  double top_p = 0.0;        ///< only the smallest set of most likely tokens whose probability reaches p; 0 or 1: all
  double repetition_penalty = 1.0;  ///< tokens seen before: positive logits divided by it, negative ones multiplied
  uint64_t seed = 0;
};

/// Throws UsageError naming the option that is out of range.
void check(const SamplingOptions& options);

inline constexpr char kLogitsNotFinite[] =
    "the model gave logits that are not finite: its weights are damaged or diverged";

/// The next token of sequence `sequence` after `context` (prompt and tokens so far). Order: repetition penalty,
/// temperature, top-k, top-p, draw. The draw is a function of (seed, sequence, length of the context): independent of
/// the batch. Ties go to the lower id.
/// DataError kLogitsNotFinite.
TokenId sample(std::span<const double> logits, const std::vector<TokenId>& context, const SamplingOptions& options,
               int64_t sequence);

}  // namespace megatron
