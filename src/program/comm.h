// The abstract communicator that the run context carries: one per mesh axis. Implementations live in src/comm.
#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace megatron {

enum class Reduction : uint8_t { kSum, kMax };

class Comm {
 public:
  virtual ~Comm() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// Element-wise sum (in rank order, so that it is deterministic) or maximum over the ranks, in place.
  virtual void all_reduce(const Tensor& values, Reduction reduction = Reduction::kSum) = 0;
  /// `target` holds the concatenation of all ranks' `source` in rank order; pieces may differ in size (uneven blocks):
  /// counts[r] elements from rank r.
  virtual void all_gather(const Tensor& source, const Tensor& target, const int64_t* counts) = 0;
  /// `target` gets this rank's block (counts[r] elements for rank r) of the sum of all ranks' `source`.
  virtual void reduce_scatter(const Tensor& source, const Tensor& target, const int64_t* counts) = 0;
  virtual void barrier() = 0;
};

}  // namespace megatron
