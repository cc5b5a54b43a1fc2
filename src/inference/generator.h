// Text generation for a batch of prompts against a key-value cache.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "inference/model.h"
#include "inference/sampler.h"

namespace megatron {

struct GenerateOptions {
  int64_t num_tokens_to_generate = 64;
  SamplingOptions sampling;
  std::vector<std::string> stop;  ///< generation ends before the first of these texts
  bool ignore_eod = false;        ///< go on after an end-of-document token
};

struct Generation {
  std::vector<TokenId> prompt, tokens;  ///< tokens: what was generated, without the end-of-document token
  std::string text;                     ///< of `tokens`, cut before a stop text
  std::string finish_reason;            ///< "length", "eod" or "stop"
};

struct GenerateStats {
  int64_t prompt_tokens = 0, generated_tokens = 0;
  double prefill_seconds = 0, decode_seconds = 0;
};

/// Piece of text of sequence `sequence` that is certain now.
using TextSink = std::function<void(int64_t sequence, const std::string& text)>;

/// Generates for all prompts at once: the prompts are read in chunks by one program, then one token of each at a time
/// by another. A prompt's result does not depend on the others. UsageError for an empty prompt or one that does not fit
/// the model.
std::vector<Generation> generate(InferenceModel& model, const std::vector<std::vector<TokenId>>& prompts,
                                 const GenerateOptions& options, const TextSink& sink, GenerateStats* stats);

}  // namespace megatron
