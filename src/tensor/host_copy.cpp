#include "tensor/host_copy.h"

#include <algorithm>

namespace megatron {

HostTensor to_host(Device& device, const Tensor& source) {
  HostTensor copy;
  if (!source) return copy;
  int64_t span = source.numel() > 0 ? 1 : 0;  // elements from the first to the last
  for (int d = 0; d < source.shape.rank() && span > 0; ++d) span += (source.shape[d] - 1) * source.strides[d];
  copy.bytes.resize(static_cast<size_t>(std::max<int64_t>(1, span * size_of(source.dtype))));
  device.copy_to_host(copy.bytes.data(), source.data, span * size_of(source.dtype));
  copy.tensor = source;
  copy.tensor.data = copy.bytes.data();
  return copy;
}

void write_tensor(Device& device, const Tensor& target, const void* source, int64_t bytes) {
  MEGATRON_CHECK(target.contiguous() && target.bytes() == bytes,
                 "the host gives " + std::to_string(bytes) + " bytes for " + std::to_string(target.bytes()));
  device.copy_to_device(target.data, source, bytes);
}

}  // namespace megatron
