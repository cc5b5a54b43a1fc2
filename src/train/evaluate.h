// Evaluation: the mean loss per token over a fixed part of a data set.
#pragma once

#include <cstdint>
#include <functional>

#include "data/batch.h"
#include "train/engine.h"

namespace megatron {

/// Mean negative log-likelihood per weighted token over the first `samples` samples of `dataset`, in micro-batches of
/// the training size. The same samples every time, so that values compare.
double evaluate(TrainEngine& engine, const DatasetPtr& dataset, const BatchOptions& options, int64_t samples);

}  // namespace megatron
