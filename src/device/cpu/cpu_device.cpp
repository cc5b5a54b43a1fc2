// Host memory behind the Device interface.
#include <cstdlib>
#include <cstring>

#include "base/check.h"
#include "base/error.h"
#include "base/host.h"
#include "base/strings.h"
#include "device/device.h"

namespace megatron {
namespace {

class CpuDevice final : public Device {
 public:
  DeviceKind kind() const override { return DeviceKind::kCpu; }
  std::string description() const override { return "cpu"; }
  int64_t free_bytes() const override { return available_host_memory(); }
  void copy_to_device(void* target, const void* source, int64_t bytes) override {
    if (bytes > 0) std::memcpy(target, source, static_cast<size_t>(bytes));
  }
  void copy_to_host(void* target, const void* source, int64_t bytes) override {
    if (bytes > 0) std::memcpy(target, source, static_cast<size_t>(bytes));
  }
  void copy_within(void* target, const void* source, int64_t bytes, int /*stream*/) override {
    if (bytes > 0) std::memmove(target, source, static_cast<size_t>(bytes));
  }
  void fill_zero(void* target, int64_t bytes) override {
    if (bytes > 0) std::memset(target, 0, static_cast<size_t>(bytes));
  }

 protected:
  std::byte* allocate(int64_t bytes) override {
    void* data = std::aligned_alloc(kAlignment, static_cast<size_t>(round_up(bytes, kAlignment)));
    if (data == nullptr) {
      throw DeviceError(str_cat("out of host memory: could not take ", format_bytes(static_cast<double>(bytes)),
                                "; run `megatron plan` to see what the model needs"));
    }
    return static_cast<std::byte*>(data);
  }
  void deallocate(std::byte* data) noexcept override { std::free(data); }
};

}  // namespace

std::unique_ptr<Device> make_cpu_device() {
  return std::make_unique<CpuDevice>();
}

}  // namespace megatron
