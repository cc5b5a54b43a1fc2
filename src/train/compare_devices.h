// One micro-batch on two devices, operation by operation, each operation from the same bits: the first one that differs
// is where a wrong kernel, and not its consequences, is.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "data/batch.h"
#include "program/executor.h"
#include "train/engine.h"

namespace megatron {

struct OpDifference {
  std::string phase, scope, op, value;
  double error = 0;      ///< |result - reference|^2 / |reference|^2
  double tolerance = 0;  ///< of the narrowest type that the operation reads or writes (kernels/harness.h)
  int64_t index = 0;     ///< element that differs most
  double result = 0, reference = 0;
  std::string text() const;
};

struct DeviceComparison {
  int64_t operations = 0, values = 0;
  std::optional<OpDifference> first;  ///< the first one above its tolerance
  OpDifference nearest;               ///< of all, the one with the largest error relative to its tolerance
};

/// Runs F, B and W of `tested`, an executor whose inputs and parameters are set, and after each operation the same one
/// of `reference`, a CPU executor of the same program, on the operands that the tested one had. Both plans must be
/// packed without reuse.
DeviceComparison compare_executors(Executor& tested, Executor& reference);

/// compare_executors() of the engine's training program on `batch` with its weights, against the CPU. Takes memory for
/// both programs without reuse.
DeviceComparison compare_with_cpu(TrainEngine& engine, const Config& config, const Batch& batch);

}  // namespace megatron
