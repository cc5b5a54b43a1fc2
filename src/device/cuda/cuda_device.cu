// A CUDA GPU behind the Device interface.
#include <string>

#include "base/error.h"
#include "device/cuda_check.h"
#include "device/device.h"
#include "device/gpu.h"

namespace megatron {
namespace {

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(int index) : name_(require_gpu(index).name) {
    check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  }
  ~CudaDevice() override { cudaStreamDestroy(stream_); }

  DeviceKind kind() const override { return DeviceKind::kCuda; }
  std::string description() const override { return name_; }
  void* stream() const override { return stream_; }
  int64_t free_bytes() const override {
    size_t free = 0, total = 0;
    check_cuda(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return static_cast<int64_t>(free);
  }
  void synchronize() override { check_cuda(cudaStreamSynchronize(stream_), "synchronize"); }

  void copy_to_device(void* target, const void* source, int64_t bytes) override {
    copy(target, source, bytes, cudaMemcpyHostToDevice);
  }
  void copy_to_host(void* target, const void* source, int64_t bytes) override {
    copy(target, source, bytes, cudaMemcpyDeviceToHost);
  }
  void copy_within(void* target, const void* source, int64_t bytes) override {
    if (bytes == 0) return;
    check_cuda(cudaMemcpyAsync(target, source, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, stream_),
               "copy_within");
  }
  void fill_zero(void* target, int64_t bytes) override {
    if (bytes > 0) check_cuda(cudaMemsetAsync(target, 0, static_cast<size_t>(bytes), stream_), "fill_zero");
  }

 protected:
  std::byte* allocate(int64_t bytes) override {
    void* data = nullptr;
    const cudaError_t error = cudaMalloc(&data, static_cast<size_t>(bytes));
    if (error == cudaSuccess) return static_cast<std::byte*>(data);
    static_cast<void>(cudaGetLastError());  // reported here, not by the next launch
    if (error == cudaErrorMemoryAllocation) fail_cuda_memory(bytes);
    fail_cuda(error, "taking memory");
  }
  void deallocate(std::byte* data) noexcept override { cudaFree(data); }

 private:
  void copy(void* target, const void* source, int64_t bytes, cudaMemcpyKind kind) {
    if (bytes == 0) return;
    check_cuda(cudaMemcpyAsync(target, source, static_cast<size_t>(bytes), kind, stream_), "copy");
    synchronize();
  }

  std::string name_;
  cudaStream_t stream_ = nullptr;
};

}  // namespace

std::unique_ptr<Device> make_cuda_device(int index) {
  return std::make_unique<CudaDevice>(index);
}

}  // namespace megatron
