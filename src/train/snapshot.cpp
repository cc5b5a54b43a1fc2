#include "train/snapshot.h"

#include <cstring>

#include "base/check.h"
#include "base/error.h"
#include "base/host.h"
#include "base/strings.h"

namespace megatron {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kCopyBlock = int64_t{1} << 20;  ///< bytes that one thread copies at a time

int64_t bytes_of(const TensorSource& source) {
  return element_count(source.box.extent) * size_of(source.record.dtype);
}

void require_host_memory(int64_t bytes) {
  const int64_t available = available_host_memory();
  if (available == 0 || bytes <= available) return;
  throw DeviceError(str_cat(
      "checkpoint.async_save keeps a copy of the state in host memory: ", format_bytes(static_cast<double>(bytes)),
      " for this rank, but only ", format_bytes(static_cast<double>(available)),
      " are free; set checkpoint.async_save: false, or share the optimizer's state over more ranks"));
}

}  // namespace

int64_t StateSnapshot::size(const std::vector<TensorSource>& sources) {
  int64_t bytes = 0;
  for (const TensorSource& source : sources) bytes += round_up(bytes_of(source), kAlignment);
  return bytes;
}

StateSnapshot::StateSnapshot(Device& device, int64_t bytes) : device_(device) {
  require_host_memory(bytes);
  memory_ = Buffer(device, bytes, Buffer::Place::kHost);
  before_ = device.make_event();
  done_ = device.make_event();
}

std::vector<TensorSource> StateSnapshot::take(const std::vector<TensorSource>& sources, ThreadPool& pool) {
  MEGATRON_CHECK(size(sources) <= memory_.bytes(), "the state has grown since its snapshot was planned");
  device_.record(*before_);
  device_.wait(*before_, Device::kCopyStream);
  std::vector<TensorSource> copies;
  std::byte* target = memory_.data();
  for (const TensorSource& source : sources) {
    const int64_t bytes = bytes_of(source);
    if (!source.read) {
      pool.parallel_for(bytes, kCopyBlock, [&](int64_t begin, int64_t end) {
        std::memcpy(target + begin, source.data.data() + begin, static_cast<size_t>(end - begin));
      });
    } else if (source.on_device != nullptr) {
      device_.enqueue_to_host(target, source.on_device, bytes, Device::kCopyStream);
    } else {
      source.read(0, {target, static_cast<size_t>(bytes)});
    }
    copies.push_back({source.record, source.box, {target, static_cast<size_t>(bytes)}, nullptr});
    target += round_up(bytes, kAlignment);
  }
  device_.record(*done_, Device::kCopyStream);
  return copies;
}

}  // namespace megatron
