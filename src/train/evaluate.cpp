#include "train/evaluate.h"

#include <algorithm>

namespace megatron {

double evaluate(TrainEngine& engine, const DatasetPtr& dataset, const BatchOptions& options, int64_t samples) {
  const int64_t size = engine.programs().eval.program.value(engine.programs().eval.program.by_name.at("tokens")).shape[1];
  const SampleShare share{size, 0, size};
  BatchLoader loader(dataset, options, share, 0, 2);
  double weights = 0;
  engine.begin_evaluation();
  for (int64_t i = 0; i < std::max<int64_t>(1, samples / size); ++i) {
    const Batch batch = loader.next();
    engine.evaluate(batch);
    weights += batch.loss_weight_sum;
  }
  return engine.loss_sum() / std::max(weights, 1.0);
}

}  // namespace megatron
