// Evaluation: the mean loss per token over a fixed part of a data set.
#pragma once

#include <cstdint>
#include <functional>

#include "data/batch.h"
#include "train/engine.h"

namespace megatron {

/// Mean negative log-likelihood per weighted token over the first `samples` samples of `dataset`, in micro-batches of
/// the training size. The same samples every time, on any mesh, so that values compare. A collective call.
double evaluate(TrainEngine& engine, const DatasetPtr& dataset, const BatchOptions& options, int64_t samples);

}  // namespace megatron
