// The persistent tensors of a run: how they start, and how they go into checkpoints and come back.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "checkpoint/model_source.h"
#include "checkpoint/shard_writer.h"
#include "program/executor.h"

namespace megatron {

/// Fills every parameter of `program` by its Init: element i of parameter `name` is a function of (seed, name, i)
/// alone. Drawn in fp64 and rounded; a master copy gets the value rounded to fp32.
void initialize_parameters(const Program& program, Store& store, uint64_t seed, ThreadPool& pool);

/// This rank's share of the tensors that a checkpoint holds: parameters of `program`, and optimizer state when
/// `optimizer` is set. The ranks' shares together hold every element once. Host memory must stay valid while the
/// sources are used.
std::vector<TensorSource> checkpoint_tensors(const Program& program, const Store& store, bool optimizer);

/// DataError naming tensor and difference when the checkpoint does not hold what load_tensors() would read of it.
void check_tensors(const CheckpointReader& reader, const Program& program, const Store& store, bool optimizer);

/// Reads this rank's part of them, whatever mesh wrote it, and returns the bytes; DataError naming the place when it is
/// damaged. Without optimizer state (weights alone), parameters may be stored in another floating type: where that is
/// narrower they come from the stored master copy, and master copies are made from the parameters.
int64_t load_tensors(const CheckpointReader& reader, const Program& program, Store& store, bool optimizer);
/// The same from the weights of another program's model.
int64_t load_weights(const ModelSource& source, const Program& program, Store& store);

}  // namespace megatron
