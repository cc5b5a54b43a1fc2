// Modules of a transformer, forward only: each declares its parameters (Megatron-Core's names) and emits its
// operations. Shape legend: S sequence, B samples, C hidden, G key-value groups, Q query heads a group, D head size, F
// MLP size, V rows of the vocabulary.
#pragma once

#include <string>

#include "kernels/rmsnorm/norm_options.h"
#include "nn/specs.h"
#include "parallel/parallel_context.h"
#include "program/trace.h"

namespace megatron {

/// The values of one micro-batch that modules read; those that a program does not need stay absent.
struct BatchValues {
  Value tokens;              ///< [S, B] int32
  Value labels;              ///< [S, B] int32
  Value weights;             ///< [S, B] fp32: weight of each token in the loss
  Value positions;           ///< [S, B] int32: position ids; with a cache the place in it, negative for padding
  Value starts;              ///< [S, B] int32: first position a query sees (reset_attention_mask)
  Value seed;                ///< scalar: dL / d(loss sum)
  Value token_index;         ///< [S, B] int32: 0 .. S - 1, the index that dropout is keyed by
  Value stream_index;        ///< the same, placed as the residual stream is
  Value samples;             ///< [B] int64: global sample numbers, for dropout
  Value step;                ///< scalar int64, for dropout
  int64_t cache_length = 0;  ///< > 0: keys and values are kept in a cache of so many positions (generation)
};

/// The residual stream between modules: the true value is residual + branch. Leaving the addition open lets the next
/// norm fuse it.
struct ResidualStream {
  Value residual;  ///< [S, B, C]
  Value branch;    ///< [S, B, C] or absent
};

struct ModuleContext {
  const ModelSpec& model;
  const ParallelContext& parallel;
  const BatchValues& batch;
};

/// norm(residual + branch) under the module name `name`; `sum` of the result is the stream's value.
NormResult norm(Trace& t, const ModuleContext& context, const std::string& name, const NormSpec& spec,
                const ResidualStream& x);

/// Self-attention on x [S, B, C]; returns the output before bias and dropout, reduced over tensor ranks, and its bias.
struct BranchOutput {
  Value value;  ///< [S, B, C]
  Value bias;   ///< [C] or absent
};
BranchOutput self_attention(Trace& t, const ModuleContext& context, const AttentionSpec& spec,
                            const NormSpec& norm_spec, Value x);

/// Two linear layers around an activation, gated or not.
BranchOutput mlp(Trace& t, const ModuleContext& context, const MlpSpec& spec, Value x);

/// Adds a branch to the stream: at once when there is a bias or dropout, else left to the next norm.
ResidualStream add_branch(Trace& t, const ModuleContext& context, const std::string& name, double dropout,
                          Value residual, const BranchOutput& branch);

/// The stream with its addition done.
ResidualStream close(Trace& t, const ResidualStream& x);

/// The halves of a pre-norm layer: x1 = x + attention(norm(x)), x2 = x1 + mlp(norm(x1)).
ResidualStream attention_block(Trace& t, const ModuleContext& context, const LayerSpec& spec, const ResidualStream& x);
ResidualStream mlp_block(Trace& t, const ModuleContext& context, const LayerSpec& spec, const ResidualStream& x);

inline constexpr char kWordEmbeddings[] = "embedding.word_embeddings.weight";

/// Word (and position) embedding: tokens -> [S, B, C].
Value embed(Trace& t, const ModuleContext& context);

/// The output layer's weight [V, C]: the word embedding when tied.
Value output_weight(Trace& t, const ModuleContext& context);

}  // namespace megatron
