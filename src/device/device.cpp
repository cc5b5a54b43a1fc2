#include "device/device.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/check.h"

namespace megatron {

Buffer::Buffer(Device& device, int64_t bytes, Place place) : device_(&device), bytes_(bytes), place_(place) {
  MEGATRON_CHECK(bytes >= 0, "a buffer has a size");
  if (bytes == 0) return;
  data_ = place == Place::kHost ? device.allocate_host(bytes) : device.allocate(bytes);
  if (place == Place::kHost) return;
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
    place_ = other.place_;
  }
  return *this;
}

Buffer::~Buffer() {
  release();
}

void Buffer::release() {
  if (data_ == nullptr) return;
  if (place_ == Place::kHost) {
    device_->deallocate_host(data_);
  } else {
    device_->deallocate(data_);
    device_->allocated_ -= bytes_;
  }
  data_ = nullptr;
  bytes_ = 0;
}

namespace {

/// Of a device that has finished whenever a call returns: the time of the host.
class HostEvent final : public Event {
 public:
  void synchronize() override {}
  double seconds_since(const Event& earlier) const override {
    const auto& other = static_cast<const HostEvent&>(earlier);
    return std::chrono::duration<double>(at_ - other.at_).count();
  }
  void record() { at_ = std::chrono::steady_clock::now(); }

 private:
  std::chrono::steady_clock::time_point at_ = std::chrono::steady_clock::now();
};

}  // namespace

std::unique_ptr<Event> Device::make_event(bool /*timing*/) {
  return std::make_unique<HostEvent>();
}

void Device::record(Event& event, int /*stream*/) {
  static_cast<HostEvent&>(event).record();
}

}  // namespace megatron
