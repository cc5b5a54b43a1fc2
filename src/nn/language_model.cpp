#include "nn/language_model.h"

#include "kernels/cast/cast.h"
#include "kernels/gather_rows/gather_rows.h"
#include "kernels/linear/linear.h"
#include "kernels/lm_head_loss/lm_head_loss.h"

namespace megatron {
namespace {

/// Embedding, all layers and the final norm: [S, B, C].
Value hidden_states(Trace& t, const ModuleContext& c) {
  ResidualStream x{embed(t, c), {}};
  Trace::Scope decoder(t, "decoder");
  for (size_t i = 0; i < c.model.layers.size(); ++i) {
    Trace::Scope layer(t, "layers." + std::to_string(i));
    x = transformer_layer(t, c, c.model.layers[i], x);
    if (!c.model.fuse_residual_norm) x = close(t, x);
    if (!x.branch) t.rename(x.residual, t.path(kLayerOutput));  // what recomputation of whole layers starts from
  }
  return norm(t, c, "final_layernorm", c.model.final_norm, x).y;
}

BatchValues token_inputs(Trace& t, const ParallelContext& parallel, int64_t S, int64_t B) {
  BatchValues batch;
  batch.tokens = t.input(inputs::kTokens, DType::kI32, {S, B}, parallel.tokens(), 1);
  batch.positions = t.input(inputs::kPositions, DType::kI32, {S, B}, parallel.tokens(), 1);
  return batch;
}

}  // namespace

void trace_loss(Trace& t, const ModelSpec& model, const ParallelContext& parallel, const LossProgramOptions& options) {
  const int64_t S = model.seq_length, B = options.micro_batch_size;
  const DType sum_dtype = accumulation_dtype(model.dtype);
  BatchValues batch = token_inputs(t, parallel, S, B);
  batch.labels = t.input(inputs::kLabels, DType::kI32, {S, B}, parallel.tokens(), 1);
  batch.weights = t.input(inputs::kWeights, DType::kF32, {S, B}, parallel.tokens(), 1);
  batch.seed = t.input(inputs::kSeed, sum_dtype, {}, parallel.replicated());
  if (options.attention_starts) batch.starts = t.input(inputs::kStarts, DType::kI32, {S, B}, parallel.tokens(), 1);
  if (options.training && uses_dropout(model)) {
    batch.token_index = t.input(inputs::kTokenIndex, DType::kI32, {S, B}, parallel.tokens(), 1);
    batch.stream_index = parallel.to_stream(t, batch.token_index);
    batch.samples = t.input(inputs::kSamples, DType::kI64, {B}, parallel.samples(), 0);
    batch.step = t.input(inputs::kStep, DType::kI64, {}, parallel.replicated());
  }
  const ModuleContext c{model, parallel, batch};
  const Value x = parallel.gather_in(t, hidden_states(t, c));
  Trace::Scope scope(t, "output_layer");
  const Value loss = lm_head_loss(t, x, output_weight(t, c), batch.labels, batch.weights, batch.seed, model.vocab_size);
  t.accumulate_into(loss, t.state(kLossSum, sum_dtype, {}, t.info(loss).placement));
  if (options.training) t.loss(loss, batch.seed);
}

void trace_logits(Trace& t, const ModelSpec& model, const ParallelContext& parallel, int64_t batch_size) {
  const BatchValues batch = token_inputs(t, parallel, model.seq_length, batch_size);
  const ModuleContext c{model, parallel, batch};
  const Value x = hidden_states(t, c);
  Trace::Scope scope(t, "output_layer");
  t.output("logits", cast(t, linear(t, x, output_weight(t, c)), accumulation_dtype(model.dtype)));
}

void trace_generation(Trace& t, const ModelSpec& model, const ParallelContext& parallel, int64_t batch_size,
                      int64_t tokens_per_call, int64_t cache_length) {
  BatchValues batch = token_inputs(t, parallel, tokens_per_call, batch_size);
  batch.cache_length = cache_length;
  const Value last = t.input(inputs::kLast, DType::kI32, {batch_size}, parallel.samples(), 0);
  const ModuleContext c{model, parallel, batch};
  const Value x = gather_rows(t, hidden_states(t, c), last);
  Trace::Scope scope(t, "output_layer");
  const Value w = output_weight(t, c);
  // Collectives cut dimension 0, which must be the vocabulary where ranks share it.
  const Value logits = parallel.tp_size() > 1 ? parallel.gather_out(t, linear(t, w, x)) : linear(t, x, w);
  t.output("logits", cast(t, logits, accumulation_dtype(model.dtype)));
}

}  // namespace megatron
