// Tensors between host and device memory.
#pragma once

#include <cstddef>
#include <vector>

#include "device/device.h"
#include "tensor/tensor.h"

namespace megatron {

/// A tensor's elements in host memory, with the strides of the original.
struct HostTensor {
  std::vector<std::byte> bytes;
  Tensor tensor;  ///< a view of `bytes`; absent when the original was
};

/// Waits until the values are there.
HostTensor to_host(Device& device, const Tensor& source);

/// Writes the elements of a contiguous tensor; `bytes` must be its size.
void write_tensor(Device& device, const Tensor& target, const void* source, int64_t bytes);

}  // namespace megatron
