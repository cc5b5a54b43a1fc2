// A CUDA GPU behind the Device interface.
#include <string>

#include "base/error.h"
#include "device/cuda_check.h"
#include "device/device.h"

namespace megatron {

void fail_cuda(cudaError_t error, const std::string& what) {
  throw DeviceError(what + ": " + cudaGetErrorName(error) + ": " + cudaGetErrorString(error));
}

namespace {

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(int index) {
    int count = 0;
    const cudaError_t found = cudaGetDeviceCount(&count);
    if (found != cudaSuccess || count == 0) {
      throw DeviceError(std::string("run.device: cuda: no usable GPU or driver (") + cudaGetErrorString(found) +
                        "); check nvidia-smi, or use run.device: cpu");
    }
    if (index >= count) {
      throw DeviceError("run.device: cuda: this rank wants GPU " + std::to_string(index) + " of " +
                        std::to_string(count));
    }
    check_cuda(cudaSetDevice(index), "cudaSetDevice");
    cudaDeviceProp properties{};
    check_cuda(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
    name_ = properties.name;
    if (properties.major != 9) {
      throw DeviceError("run.device: cuda: " + name_ + " has compute capability " + std::to_string(properties.major) +
                        "." + std::to_string(properties.minor) +
                        "; this build is for 9.0 (set CMAKE_CUDA_ARCHITECTURES)");
    }
    check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  }
  ~CudaDevice() override { cudaStreamDestroy(stream_); }

  DeviceKind kind() const override { return DeviceKind::kCuda; }
  std::string description() const override { return name_; }
  void* stream() const override { return stream_; }
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
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    throw DeviceError(name_ + ": could not take " + std::to_string(bytes) + " bytes (" + std::to_string(free) + " of " +
                      std::to_string(total) + " are free); run `megatron plan` to see what the model needs");
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

int cuda_device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

std::unique_ptr<Device> make_cuda_device(int index) {
  return std::make_unique<CudaDevice>(index);
}

}  // namespace megatron
