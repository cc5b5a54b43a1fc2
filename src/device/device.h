// A device gives memory, and counts it. Nothing on the step path calls it: the plan's arenas are taken once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace megatron {

enum class DeviceKind : uint8_t { kCpu, kCuda };

class Device;

/// Owned device memory, aligned to Device::kAlignment. Movable; freed with its owner. The device must outlive it.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Device& device, int64_t bytes);
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  void release();

  Device* device_ = nullptr;
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

/// One compute device as one rank sees it.
class Device {
 public:
  static constexpr int64_t kAlignment = 256;

  virtual ~Device() = default;
  virtual DeviceKind kind() const = 0;
  /// "cpu, 2 threads", or the GPU's name.
  virtual std::string description() const = 0;
  /// Bytes that could still be taken now; what the operating system or the driver keeps for itself is not in it.
  virtual int64_t free_bytes() const = 0;

  virtual void copy_to_device(void* target, const void* source, int64_t bytes) = 0;
  virtual void copy_to_host(void* target, const void* source, int64_t bytes) = 0;
  /// Within the device; may be asynchronous on stream().
  virtual void copy_within(void* target, const void* source, int64_t bytes) = 0;
  virtual void fill_zero(void* target, int64_t bytes) = 0;
  /// cudaStream_t of a GPU, on which everything runs in order; nullptr on the CPU.
  virtual void* stream() const { return nullptr; }
  /// Waits for all work given to the device.
  virtual void synchronize() {}

  /// Bytes that live Buffers hold now, and the most they ever held.
  int64_t allocated_bytes() const { return allocated_; }
  int64_t peak_allocated_bytes() const { return peak_; }

 protected:
  friend class Buffer;
  virtual std::byte* allocate(int64_t bytes) = 0;
  virtual void deallocate(std::byte* data) noexcept = 0;

 private:
  int64_t allocated_ = 0, peak_ = 0;
};

/// Host memory as a device. Throws DeviceError when memory runs out.
std::unique_ptr<Device> make_cpu_device();

/// Number of usable GPUs; 0 without a driver. Only in builds with CUDA.
int cuda_device_count();
/// GPU `index`. Only in builds with CUDA (MEGATRON_HAVE_CUDA). DeviceError: no driver, no such GPU, wrong architecture.
std::unique_ptr<Device> make_cuda_device(int index);

}  // namespace megatron
