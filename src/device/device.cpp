#include "device/device.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace megatron {

Buffer::Buffer(Device& device, int64_t bytes) : device_(&device), bytes_(bytes) {
  MEGATRON_CHECK(bytes >= 0, "a buffer has a size");
  if (bytes == 0) return;
  data_ = device.allocate(bytes);
  device.allocated_ += bytes;
  device.peak_ = std::max(device.peak_, device.allocated_);
}

Buffer::Buffer(Buffer&& other) noexcept {
  *this = std::move(other);
}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this != &other) {
    release();
    device_ = std::exchange(other.device_, nullptr);
    data_ = std::exchange(other.data_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
  }
  return *this;
}

Buffer::~Buffer() {
  release();
}

void Buffer::release() {
  if (data_ == nullptr) return;
  device_->deallocate(data_);
  device_->allocated_ -= bytes_;
  data_ = nullptr;
  bytes_ = 0;
}

}  // namespace megatron
