#include "nn/modules.h"

#include <cmath>

#include "base/check.h"
#include "kernels/activation/activation.h"
#include "kernels/dropout/dropout.h"
#include "kernels/embedding/embedding.h"
#include "kernels/kv_cache/kv_cache.h"
#include "kernels/layernorm/layernorm.h"
#include "kernels/linear/linear.h"
#include "kernels/rmsnorm/rmsnorm.h"
#include "kernels/spread_groups/spread_groups.h"
#include "nn/context_attention.h"
#include "program/elementwise.h"
#include "program/views.h"

namespace megatron {

bool uses_dropout(const ModelSpec& spec) {
  if (spec.embedding_dropout > 0) return true;
  for (const LayerSpec& layer : spec.layers) {
    if (layer.hidden_dropout > 0 || layer.attention.dropout > 0) return true;
  }
  return false;
}

namespace {

/// N(0, init_std), or Xavier uniform when the model asks for it.
Init matrix_init(const ModelSpec& model, int64_t fan_in, int64_t fan_out) {
  return model.xavier_uniform ? Init::xavier_uniform(fan_in, fan_out) : Init::normal(model.init_std);
}

Value weight(Trace& t, const ModuleContext& c, const std::string& name, const Dims& shape, const Placement& placement,
             const Init& init) {
  return c.parallel.parameter(t, t.path(name), c.model.dtype, shape, placement, init);
}

DropoutKey dropout_key_for(Trace& t, const ModuleContext& c, const std::string& name, double p) {
  DropoutKey key;
  if (!t.training() || p == 0) return key;
  key.p = p;
  key.seed = c.model.seed;
  key.name = t.path(name);
  key.step = c.batch.step;
  key.sample = c.batch.samples;
  key.position = c.batch.stream_index;
  return key;
}

/// Norm over the innermost dimension of x, with weight (and bias) of `size`.
NormResult norm_over(Trace& t, const ModuleContext& c, const NormSpec& spec, Value x, int64_t size, Value residual) {
  const Init one = Init::constant(spec.zero_centered ? 0.0 : 1.0);
  const Value gamma = weight(t, c, "weight", {size}, c.parallel.replicated(), one);
  const NormOptions options{spec.epsilon, spec.zero_centered};
  if (spec.kind == NormSpec::Kind::kRmsNorm) return rmsnorm(t, x, gamma, options, residual);
  const Value beta = weight(t, c, "bias", {size}, c.parallel.replicated(), Init::constant(0));
  return layernorm(t, x, gamma, beta, options, residual);
}

/// Keys and values of the cache, with those of the new tokens written to their places.
struct CachedKeys {
  Value keys, values;
};
CachedKeys append_to_cache(Trace& t, const ModuleContext& c, const AttentionSpec& spec, Value k, Value v) {
  const Dims shape{t.shape(k)[1], c.batch.cache_length, t.shape(k)[2], spec.head_dim};
  const Placement placement = c.parallel.tp_sharded(2);
  const CachedKeys cache{t.state(t.path("key_cache"), c.model.dtype, shape, placement),
                         t.state(t.path("value_cache"), c.model.dtype, shape, placement)};
  kv_cache_append(t, cache.keys, k, c.batch.positions);
  kv_cache_append(t, cache.values, v, c.batch.positions);
  return cache;
}

AttentionOptions attention_options(Trace& t, const ModuleContext& c, const AttentionSpec& spec) {
  AttentionOptions options;
  options.softmax_scale = spec.softmax_scale;
  options.causal = true;
  options.window_left = spec.window_left;
  options.window_right = spec.window_right;
  options.deterministic = c.model.deterministic;
  if (t.training()) {
    options.dropout = spec.dropout;
    options.seed = c.model.seed;
    options.name = t.path("attention_dropout");
  }
  return options;
}

Value core_attention(Trace& t, const ModuleContext& c, const AttentionSpec& spec, Value q, Value k, Value v) {
  const AttentionOptions options = attention_options(t, c, spec);
  if (c.batch.cache_length > 0) {
    const CachedKeys cache = append_to_cache(t, c, spec, k, v);
    return attention_cached(t, q, cache.keys, cache.values, c.batch.positions, options);
  }
  Trace::Scope scope(t, "core_attention");
  AttentionExtras extras;
  extras.starts = c.batch.starts;
  if (options.dropout > 0) {
    extras.step = c.batch.step;
    extras.sample = c.batch.samples;
    extras.position = c.batch.token_index;
  }
  return context_attention(t, c.parallel, q, k, v, options, extras);
}

}  // namespace

NormResult norm(Trace& t, const ModuleContext& c, const std::string& name, const NormSpec& spec,
                const ResidualStream& stream) {
  const ResidualStream x = c.model.fuse_residual_norm ? stream : close(t, stream);
  Trace::Scope scope(t, name);
  return norm_over(t, c, spec, x.residual, c.model.hidden_size, x.branch);
}

ResidualStream close(Trace& t, const ResidualStream& x) {
  return x.branch ? ResidualStream{add(t, x.residual, x.branch), {}} : x;
}

namespace {

/// How many times a group is repeated, each time with another part of its queries, so that every tensor rank gets
/// heads: 1 while there are groups enough, else the divisor of its queries that leaves the fullest rank the fewest.
int64_t parts_of_groups(const AttentionSpec& spec, int64_t ranks) {
  if (ranks <= spec.groups) return 1;
  const int64_t queries = div_exact(spec.heads, spec.groups);
  int64_t best = 1, fewest = queries;
  for (int64_t parts = 2; parts <= queries; ++parts) {
    if (queries % parts != 0) continue;
    const int64_t most = div_ceil(spec.groups * parts, ranks) * (queries / parts);
    if (most < fewest) {
      best = parts;
      fewest = most;
    }
  }
  return best;
}

/// Queries, keys and values of all heads: [S, B, G, Q + 2, D], cut over tp by groups. With fewer groups than ranks the
/// weight lies whole on every rank, which uses its part.
Value project_qkv(Trace& t, const ModuleContext& c, const AttentionSpec& spec, Value x_SBC, int64_t parts) {
  const int64_t C = c.model.hidden_size, G = spec.groups, Q = div_exact(spec.heads, G), D = spec.head_dim;
  const Placement placement = parts == 1 ? c.parallel.tp_sharded(0) : c.parallel.replicated();
  // Rows of the projection are interleaved by group: queries of the group, its key, its value.
  const Init init = matrix_init(c.model, C, G * (Q + 2) * D);
  Value w = weight(t, c, "linear_qkv.weight", {G, Q + 2, D, C}, placement, init);
  Value b = spec.qkv_bias ? weight(t, c, "linear_qkv.bias", {G, Q + 2, D}, placement, Init::constant(0)) : Value{};
  if (parts > 1) w = spread_groups(t, w, parts, "tp");
  if (parts > 1 && b) b = spread_groups(t, b, parts, "tp");
  return linear(t, x_SBC, w, b, {.out_dims = 3});
}

}  // namespace

BranchOutput self_attention(Trace& t, const ModuleContext& c, const AttentionSpec& spec, const NormSpec& norm_spec,
                            Value x) {
  Trace::Scope scope(t, "self_attention");
  const int64_t parts = parts_of_groups(spec, c.parallel.tp_size());
  const Value x_SBC = c.parallel.gather_in(t, x);
  const int64_t S = t.shape(x_SBC)[0], B = t.shape(x_SBC)[1], C = c.model.hidden_size, D = spec.head_dim;
  const int64_t G = spec.groups * parts, Q = div_exact(spec.heads, G);
  const std::vector<Value> qkv = split(t, project_qkv(t, c, spec, x_SBC, parts), 3, {Q, 1, 1});
  Value q = qkv[0], k = reshape(t, qkv[1], {S, B, G, D}), v = reshape(t, qkv[2], {S, B, G, D});
  if (spec.qk_norm) {
    Trace::Scope q_scope(t, "q_layernorm");
    q = norm_over(t, c, norm_spec, q, D, {}).y;
  }
  if (spec.qk_norm) {
    Trace::Scope k_scope(t, "k_layernorm");
    k = norm_over(t, c, norm_spec, k, D, {}).y;
  }
  if (spec.rope) {
    q = rope(t, q, c.batch.positions, *spec.rope);
    k = rope(t, k, c.batch.positions, *spec.rope);
  }
  const Value out = core_attention(t, c, spec, q, k, v);
  const Value w_out =
      weight(t, c, "linear_proj.weight", {C, G, Q, D}, c.parallel.tp_sharded(1), Init::normal(c.model.output_init_std));
  BranchOutput branch;
  branch.value = c.parallel.reduce_out(t, linear(t, out, w_out, {}, {.out_dims = 1, .contract_dims = 3}));
  if (spec.out_bias) branch.bias = weight(t, c, "linear_proj.bias", {C}, c.parallel.replicated(), Init::constant(0));
  return branch;
}

BranchOutput mlp(Trace& t, const ModuleContext& c, const MlpSpec& spec, Value x) {
  Trace::Scope scope(t, "mlp");
  const int64_t C = c.model.hidden_size, F = spec.ffn_hidden_size;
  const int cut = spec.gated ? 1 : 0;
  const Dims bias_shape = spec.gated ? Dims{2, F} : Dims{F};
  const Dims weight_shape = spec.gated ? Dims{2, F, C} : Dims{F, C};
  const Value w1 = weight(t, c, "linear_fc1.weight", weight_shape, c.parallel.tp_sharded(cut),
                          matrix_init(c.model, C, bias_shape.numel()));
  const Value b1 =
      spec.bias ? weight(t, c, "linear_fc1.bias", bias_shape, c.parallel.tp_sharded(cut), Init::constant(0)) : Value{};
  Value h = linear(t, c.parallel.gather_in(t, x), w1, b1, {.out_dims = bias_shape.rank()});
  h = spec.gated ? gated_activation(t, h, spec.activation) : activation(t, h, spec.activation);
  const Value w2 =
      weight(t, c, "linear_fc2.weight", {C, F}, c.parallel.tp_sharded(1), Init::normal(c.model.output_init_std));
  BranchOutput branch;
  branch.value = c.parallel.reduce_out(t, linear(t, h, w2));
  if (spec.bias) branch.bias = weight(t, c, "linear_fc2.bias", {C}, c.parallel.replicated(), Init::constant(0));
  return branch;
}

ResidualStream add_branch(Trace& t, const ModuleContext& c, const std::string& name, double dropout, Value residual,
                          const BranchOutput& branch) {
  const DropoutKey key = dropout_key_for(t, c, name, dropout);
  if (key.p == 0 && !branch.bias) return {residual, branch.value};
  return {dropout_add(t, branch.value, branch.bias, residual, key), {}};
}

ResidualStream attention_block(Trace& t, const ModuleContext& c, const LayerSpec& spec, const ResidualStream& x) {
  const NormResult before = norm(t, c, "input_layernorm", spec.norm, x);
  const BranchOutput attended = self_attention(t, c, spec.attention, spec.norm, before.y);
  return add_branch(t, c, "self_attention_dropout", spec.hidden_dropout, before.sum, attended);
}

ResidualStream mlp_block(Trace& t, const ModuleContext& c, const LayerSpec& spec, const ResidualStream& x) {
  const NormResult before = norm(t, c, "pre_mlp_layernorm", spec.norm, x);
  const BranchOutput mapped = mlp(t, c, spec.mlp, before.y);
  return add_branch(t, c, "mlp_dropout", spec.hidden_dropout, before.sum, mapped);
}

namespace {

Value word_table(Trace& t, const ModuleContext& c) {
  Init init = Init::normal(c.model.embedding_init_std);
  init.valid_rows = c.model.vocab_size;
  return c.parallel.parameter(t, kWordEmbeddings, c.model.dtype, {c.model.padded_vocab_size, c.model.hidden_size},
                              c.parallel.tp_sharded(0), init);
}

}  // namespace

Value embed(Trace& t, const ModuleContext& c) {
  Trace::Scope scope(t, "embedding");
  Value x = c.parallel.reduce_out(t, embedding(t, word_table(t, c), c.batch.tokens));
  if (c.model.learned_positions) {
    const Value table = weight(t, c, "position_embeddings.weight", {c.model.max_positions, c.model.hidden_size},
                               c.parallel.replicated(), Init::normal(c.model.embedding_init_std));
    x = add(t, x, embedding(t, table, c.parallel.to_stream(t, c.batch.positions)));
  }
  const DropoutKey key = dropout_key_for(t, c, "dropout", c.model.embedding_dropout);
  return key.p > 0 ? dropout(t, x, key) : x;
}

Value output_weight(Trace& t, const ModuleContext& c) {
  if (c.model.tied) return word_table(t, c);
  Init init = matrix_init(c.model, c.model.hidden_size, c.model.padded_vocab_size);
  init.valid_rows = c.model.vocab_size;
  return c.parallel.parameter(t, "output_layer.weight", c.model.dtype, {c.model.padded_vocab_size, c.model.hidden_size},
                              c.parallel.tp_sharded(0), init);
}

}  // namespace megatron
