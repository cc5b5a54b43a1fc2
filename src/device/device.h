// A device gives memory, and counts it. Nothing on the step path calls it: the plan's arenas are taken once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace megatron {

enum class DeviceKind : uint8_t { kCpu, kCuda };

class Device;

/// Owned memory, aligned to Device::kAlignment. Movable; freed with its owner. The device must outlive it.
class Buffer {
 public:
  enum class Place : uint8_t {
    kDevice,  ///< counted by Device::allocated_bytes()
    kHost,    ///< what the device copies from and to without waiting: page-locked for a GPU
  };

  Buffer() = default;
  Buffer(Device& device, int64_t bytes, Place place = Place::kDevice);
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
  Place place_ = Place::kDevice;
};

/// A point in the work of a stream, set by Device::record(). Before the first record it counts as reached.
class Event {
 public:
  virtual ~Event() = default;
  /// The host waits until the point is reached.
  virtual void synchronize() = 0;
  /// Seconds from `earlier` to this point, both reached; 0 for events without timing.
  virtual double seconds_since(const Event& earlier) const = 0;
};

/// Work that was recorded once and can be given to the device again at the cost of one launch.
class Graph {
 public:
  virtual ~Graph() = default;
  /// Enqueues all of it on stream 0.
  virtual void launch() = 0;
};

/// One compute device as one rank sees it. Work is enqueued on streams, each of which runs in order: 0 computes and
/// does all copies of this interface that name no other, the others run beside it. On the CPU everything is done when a
/// call returns.
class Device {
 public:
  static constexpr int64_t kAlignment = 256;
  static constexpr int kStreams = 2;  ///< as many as program.h's Stream has
  /// Streams of transfers between pipeline stages, forward and backward: they run beside phases, never within one.
  static constexpr int kForwardTransfers = 2, kBackwardTransfers = 3;
  static constexpr int kCopyStream = 4;  ///< for copies to the host that programs run beside
  static constexpr int kAllStreams = 5;

  virtual ~Device() = default;
  virtual DeviceKind kind() const = 0;
  /// "cpu, 2 threads", or the GPU's name.
  virtual std::string description() const = 0;
  /// Bytes that could still be taken now; what the operating system or the driver keeps for itself is not in it.
  virtual int64_t free_bytes() const = 0;

  /// These two wait until the bytes are there.
  virtual void copy_to_device(void* target, const void* source, int64_t bytes) = 0;
  virtual void copy_to_host(void* target, const void* source, int64_t bytes) = 0;
  /// These are enqueued; `source` or `target` on the host lies in a Buffer of Place::kHost and is left alone until they
  /// ran.
  virtual void enqueue_to_device(void* target, const void* source, int64_t bytes) {
    copy_to_device(target, source, bytes);
  }
  virtual void enqueue_to_host(void* target, const void* source, int64_t bytes, int /*stream*/ = 0) {
    copy_to_host(target, source, bytes);
  }
  virtual void copy_within(void* target, const void* source, int64_t bytes, int stream = 0) = 0;
  virtual void fill_zero(void* target, int64_t bytes) = 0;
  /// cudaStream_t of a GPU; nullptr on the CPU.
  virtual void* stream(int /*index*/ = 0) const { return nullptr; }
  /// Does work go on after the call that enqueued it returned?
  virtual bool asynchronous() const { return false; }
  /// Waits for all work given to the device.
  virtual void synchronize() {}

  virtual std::unique_ptr<Event> make_event(bool timing = false);
  /// Moves `event` to the end of what `stream` was given so far.
  virtual void record(Event& event, int stream = 0);
  /// What `stream` is given from now on runs after `event`.
  virtual void wait(Event& /*event*/, int /*stream*/) {}
  /// Records what `enqueue` gives to the streams instead of running it; all of it must start from and end on stream 0.
  /// nullptr (and nothing called) where the device has no graphs.
  virtual std::unique_ptr<Graph> capture(const std::function<void()>& /*enqueue*/) { return nullptr; }

  /// Bytes that live Buffers hold now, and the most they ever held.
  int64_t allocated_bytes() const { return allocated_; }
  int64_t peak_allocated_bytes() const { return peak_; }

 protected:
  friend class Buffer;
  virtual std::byte* allocate(int64_t bytes) = 0;
  virtual void deallocate(std::byte* data) noexcept = 0;
  virtual std::byte* allocate_host(int64_t bytes) { return allocate(bytes); }
  virtual void deallocate_host(std::byte* data) noexcept { deallocate(data); }

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
