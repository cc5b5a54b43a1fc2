#include "train/evaluate.h"

#include <algorithm>

#include "base/check.h"
#include "base/strings.h"

namespace megatron {
namespace {

/// Takes sample `column` of a micro-batch out of the loss: the last micro-batch may reach beyond what is asked for.
void leave_out(Batch& batch, int64_t column) {
  for (int64_t s = 0; s < batch.seq_length; ++s) {
    batch.loss_weights[static_cast<size_t>(s * batch.micro_batch_size + column)] = 0;
  }
  batch.loss_weight_sum -= batch.sample_weights[static_cast<size_t>(column)];
}

}  // namespace

double evaluate(TrainEngine& engine, const DatasetPtr& dataset, const BatchOptions& options, int64_t samples) {
  RankContext& ranks = engine.ranks();
  const int64_t own = engine.micro_batch_size(), size = own * ranks.data_size(), first = own * ranks.data_rank();
  BatchLoader loader(dataset, options, data_parallel_share(own, ranks.data_rank(), ranks.data_size()), 0, 2);
  double weights = 0;
  engine.begin_evaluation();
  std::vector<Batch> group;  // what the stages of a pipeline work on together
  const int64_t batches = div_ceil(samples, size);
  for (int64_t i = 0; i < batches; ++i) {
    Batch batch = loader.next();
    const int64_t wanted = samples - i * size - first;  // of this rank's part
    for (int64_t j = std::max<int64_t>(0, wanted); j < own; ++j) leave_out(batch, j);
    ranks.at(str_cat("evaluation, micro-batch ", i));
    if (ranks.has_loss()) weights += batch.loss_weight_sum;
    group.push_back(std::move(batch));
    if (std::ssize(group) < engine.programs().eval_micro_batches && i + 1 < batches) continue;
    engine.evaluate(group);
    group.clear();
  }
  if (ranks.parallel().context_rank() > 0) weights = 0;  // of whole samples: counted once
  const std::vector<double> sums = ranks.sum_over_tokens({engine.loss_sum(), weights});
  return sums[0] / std::max(sums[1], 1.0);
}

}  // namespace megatron
