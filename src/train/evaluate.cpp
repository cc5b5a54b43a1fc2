#include "train/evaluate.h"

#include <algorithm>

#include "base/check.h"

namespace megatron {
namespace {

/// Takes sample `column` of a micro-batch out of the loss: the last micro-batch may reach beyond what is asked for.
void leave_out(Batch& batch, int64_t column) {
  for (int64_t s = 0; s < batch.seq_length; ++s) {
    float& weight = batch.loss_weights[static_cast<size_t>(s * batch.micro_batch_size + column)];
    batch.loss_weight_sum -= static_cast<double>(weight);
    weight = 0;
  }
}

}  // namespace

double evaluate(TrainEngine& engine, const DatasetPtr& dataset, const BatchOptions& options, int64_t samples) {
  const int64_t size =
      engine.programs().eval.program.value(engine.programs().eval.program.by_name.at("tokens")).shape[1];
  const SampleShare share{size, 0, size};
  BatchLoader loader(dataset, options, share, 0, 2);
  double weights = 0;
  engine.begin_evaluation();
  for (int64_t i = 0; i < div_ceil(samples, size); ++i) {
    Batch batch = loader.next();
    for (int64_t j = samples - i * size; j < size; ++j) leave_out(batch, j);
    engine.evaluate(batch);
    weights += batch.loss_weight_sum;
  }
  return engine.loss_sum() / std::max(weights, 1.0);
}

}  // namespace megatron
