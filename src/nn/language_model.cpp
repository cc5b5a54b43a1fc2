#include "nn/language_model.h"

#include "kernels/cast/cast.h"
#include "kernels/gather_rows/gather_rows.h"
#include "kernels/linear/linear.h"
#include "kernels/lm_head_loss/lm_head_loss.h"

namespace megatron {
namespace {

StagePart whole(const ModelSpec& model) {
  return {0, static_cast<int64_t>(model.layers.size()), true, true};
}

/// The residual stream before layer `layer`, or before its MLP, as it goes from one stage to the next.
std::string boundary_name(int64_t layer, bool in_layer) {
  return "stream." + std::to_string(layer) + (in_layer ? ".mlp" : "");
}
std::string boundary_behind(const StagePart& part) {
  return boundary_name(part.first_layer + part.layers - (part.ends_in_layer ? 1 : 0), part.ends_in_layer);
}

/// What a part of the model begins with: the embedding, or what the part before has made of S x B tokens.
Value stream_before(Trace& t, const ModuleContext& c, const StagePart& part, int64_t S, int64_t B) {
  if (part.embedding) return embed(t, c);
  const auto type = c.parallel.stream(S, B, c.model.hidden_size);
  return t.receive(boundary_name(part.first_layer, part.begins_in_layer), c.model.dtype, type.shape, type.placement,
                   type.sample_dim);
}

/// The layers of a part of the model.
ResidualStream layers(Trace& t, const ModuleContext& c, const StagePart& part, ResidualStream x) {
  Trace::Scope decoder(t, "decoder");
  const int64_t first = part.first_layer, last = first + part.layers - 1;
  for (int64_t i = first; i <= last; ++i) {
    Trace::Scope layer(t, "layers." + std::to_string(i));
    const LayerSpec& spec = c.model.layers[static_cast<size_t>(i)];
    if (i > first || !part.begins_in_layer) x = attention_block(t, c, spec, x);
    if (i == last && part.ends_in_layer) break;
    x = mlp_block(t, c, spec, x);
    if (!c.model.fuse_residual_norm) x = close(t, x);
    if (!x.branch) t.rename(x.residual, t.path(kLayerOutput));  // what recomputation of whole layers starts from
  }
  return x;
}

Value final_norm(Trace& t, const ModuleContext& c, const ResidualStream& x) {
  Trace::Scope decoder(t, "decoder");
  return norm(t, c, "final_layernorm", c.model.final_norm, x).y;
}

/// Two stages hold the word embedding of tied models: the first as the table of ids, the last as the output layer.
void mark_shared_table(Program& program, const ParallelContext& parallel, const StagePart& part) {
  for (ParameterInfo& p : program.parameters) {
    if (program.value(p.value).name != kWordEmbeddings) continue;
    p.sum_group = parallel.pipeline_ends();
    p.owner = part.embedding;
  }
}

/// The inputs that a part of the model reads.
BatchValues loss_inputs(Trace& t, const ModelSpec& model, const ParallelContext& parallel,
                        const LossProgramOptions& options, const StagePart& part) {
  const int64_t S = model.seq_length, B = options.micro_batch_size;
  BatchValues batch;
  if (part.embedding) batch.tokens = t.input(inputs::kTokens, DType::kI32, {S, B}, parallel.tokens(), 1);
  batch.positions = t.input(inputs::kPositions, DType::kI32, {S, B}, parallel.tokens(), 1);
  if (part.loss) {
    batch.labels = t.input(inputs::kLabels, DType::kI32, {S, B}, parallel.tokens(), 1);
    batch.weights = t.input(inputs::kWeights, DType::kF32, {S, B}, parallel.tokens(), 1);
    batch.seed = t.input(inputs::kSeed, accumulation_dtype(model.dtype), {}, parallel.replicated());
  }
  if (options.attention_starts) batch.starts = t.input(inputs::kStarts, DType::kI32, {S, B}, parallel.tokens(), 1);
  if (options.training && uses_dropout(model)) {
    batch.token_index = t.input(inputs::kTokenIndex, DType::kI32, {S, B}, parallel.tokens(), 1);
    batch.stream_index = parallel.to_stream(t, batch.token_index);
    batch.samples = t.input(inputs::kSamples, DType::kI64, {B}, parallel.samples(), 0);
    batch.step = t.input(inputs::kStep, DType::kI64, {}, parallel.replicated());
  }
  return batch;
}

}  // namespace

void trace_loss(Trace& t, const ModelSpec& model, const ParallelContext& parallel, const LossProgramOptions& options) {
  const DType sum_dtype = accumulation_dtype(model.dtype);
  const StagePart part = options.part.value_or(whole(model));
  const BatchValues batch = loss_inputs(t, model, parallel, options, part);
  const ModuleContext c{model, parallel, batch};
  const Value before = stream_before(t, c, part, model.seq_length, options.micro_batch_size);
  const ResidualStream stream = layers(t, c, part, {before, {}});
  if (!part.loss) {
    t.send(boundary_behind(part), close(t, stream).residual);
    if (options.part && model.tied) mark_shared_table(t.program(), parallel, part);
    return;
  }
  const Value x = parallel.gather_in(t, final_norm(t, c, stream));
  Trace::Scope scope(t, "output_layer");
  const Value loss = lm_head_loss(t, x, output_weight(t, c), batch.labels, batch.weights, batch.seed, model.vocab_size);
  t.accumulate_into(loss, t.state(kLossSum, sum_dtype, {}, t.info(loss).placement));
  if (options.training) t.loss(loss, batch.seed);
  if (options.part && model.tied) mark_shared_table(t.program(), parallel, part);
}

void trace_logits(Trace& t, const ModelSpec& model, const ParallelContext& parallel, int64_t batch_size) {
  const int64_t S = model.seq_length;
  BatchValues batch;
  batch.tokens = t.input(inputs::kTokens, DType::kI32, {S, batch_size}, parallel.tokens(), 1);
  batch.positions = t.input(inputs::kPositions, DType::kI32, {S, batch_size}, parallel.tokens(), 1);
  const ModuleContext c{model, parallel, batch};
  const Value x = final_norm(t, c, layers(t, c, whole(model), {embed(t, c), {}}));
  Trace::Scope scope(t, "output_layer");
  t.output("logits", cast(t, linear(t, x, output_weight(t, c)), accumulation_dtype(model.dtype)));
}

void trace_generation(Trace& t, const ModelSpec& model, const ParallelContext& parallel,
                      const GenerationProgramOptions& options) {
  const StagePart part = options.part.value_or(whole(model));
  const int64_t S = options.tokens_per_call, B = options.batch;
  BatchValues batch;
  if (part.embedding) batch.tokens = t.input(inputs::kTokens, DType::kI32, {S, B}, parallel.tokens(), 1);
  batch.positions = t.input(inputs::kPositions, DType::kI32, {S, B}, parallel.tokens(), 1);
  batch.cache_length = options.cache_length;
  const ModuleContext c{model, parallel, batch};
  const ResidualStream stream = layers(t, c, part, {stream_before(t, c, part, S, B), {}});
  if (!part.loss) {
    t.send(boundary_behind(part), close(t, stream).residual);
    return;
  }
  const Value last = t.input(inputs::kLast, DType::kI32, {B}, parallel.samples(), 0);
  const Value x = gather_rows(t, final_norm(t, c, stream), last);
  Trace::Scope scope(t, "output_layer");
  const Value w = output_weight(t, c);
  // Collectives cut dimension 0, which must be the vocabulary where ranks share it.
  const Value logits = parallel.tp_size() > 1 ? parallel.gather_out(t, linear(t, w, x)) : linear(t, x, w);
  t.output("logits", cast(t, logits, accumulation_dtype(model.dtype)));
}

}  // namespace megatron
