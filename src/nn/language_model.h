// The decoder-only language model: embedding, layers, final norm, and the loss or the logits.
#pragma once

#include <optional>

#include "config/stage_split.h"
#include "nn/modules.h"

namespace megatron {

/// Names of the inputs of the programs below.
namespace inputs {
inline constexpr char kTokens[] = "tokens", kLabels[] = "labels", kWeights[] = "loss_weights",
                      kPositions[] = "positions", kStarts[] = "attention_starts", kSeed[] = "loss_seed",
                      kTokenIndex[] = "token_index", kSamples[] = "samples", kStep[] = "step", kLast[] = "last_token";
}

/// Name of the value that a layer gives to the next, below the layer's path (where the stream is not left open).
inline constexpr char kLayerOutput[] = "output";

struct LossProgramOptions {
  int64_t micro_batch_size = 1;
  bool training = true;
  bool attention_starts = false;    ///< reset_attention_mask: queries do not see earlier documents
  std::optional<StagePart> part{};  ///< of a pipeline stage; absent: the whole model
};

/// Traces the sum over tokens of weight * negative log-likelihood of one micro-batch, added to the state "loss_sum"
/// (fp32, or fp64) and, in training, its gradient's seed. Inputs: tokens, labels, loss_weights, positions, loss_seed
/// and what dropout needs. A part of the model has what it needs of them; the residual stream [S, B, C] comes in from
/// the part before and goes out to the part behind as a boundary value. A table that two parts share is marked in
/// Program::parameters.
void trace_loss(Trace& t, const ModelSpec& model, const ParallelContext& parallel, const LossProgramOptions& options);
inline constexpr char kLossSum[] = "loss_sum";

/// Traces the logits of all tokens, without a loss or a cache: output "logits" [S, batch, V] (fp32, or fp64), S =
/// model.seq_length. Inputs: tokens, positions. One tensor rank.
void trace_logits(Trace& t, const ModelSpec& model, const ParallelContext& parallel, int64_t batch);

struct GenerationProgramOptions {
  int64_t batch = 1, tokens_per_call = 1, cache_length = 0;
  std::optional<StagePart> part{};  ///< of a pipeline stage; absent: the whole model
};

/// Traces generation: `tokens_per_call` new tokens of `batch` sequences against a cache of `cache_length` positions;
/// output "logits" (fp32, or fp64) of the token that input last_token [batch] points at: [batch, V] on one tensor rank,
/// [V, batch] whole on each of several. A part of the model has the caches of its layers and the inputs that it needs;
/// boundary values are as in trace_loss(), of the last part come the logits. `parallel` is that of one stage, without
/// sequence parallelism.
void trace_generation(Trace& t, const ModelSpec& model, const ParallelContext& parallel,
                      const GenerationProgramOptions& options);

}  // namespace megatron
