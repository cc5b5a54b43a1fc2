// A CUDA GPU behind the Device interface.
#include <array>
#include <string>

#include "base/error.h"
#include "device/cuda_check.h"
#include "device/device.h"
#include "device/gpu.h"

namespace megatron {
namespace {

class CudaEvent final : public Event {
 public:
  explicit CudaEvent(bool timing) {
    check_cuda(cudaEventCreateWithFlags(&event_, timing ? cudaEventDefault : cudaEventDisableTiming),
               "cudaEventCreate");
  }
  ~CudaEvent() override { cudaEventDestroy(event_); }
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;

  cudaEvent_t get() const { return event_; }
  void synchronize() override { check_cuda(cudaEventSynchronize(event_), "cudaEventSynchronize"); }
  double seconds_since(const Event& earlier) const override {
    float milliseconds = 0;
    check_cuda(cudaEventElapsedTime(&milliseconds, static_cast<const CudaEvent&>(earlier).event_, event_),
               "cudaEventElapsedTime");
    return milliseconds * 1e-3;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

class CudaGraph final : public Graph {
 public:
  CudaGraph(cudaGraph_t graph, cudaStream_t stream) : stream_(stream) {
    const cudaError_t error = cudaGraphInstantiate(&executable_, graph, 0);
    cudaGraphDestroy(graph);
    check_cuda(error, "cudaGraphInstantiate");
  }
  ~CudaGraph() override { cudaGraphExecDestroy(executable_); }
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;

  void launch() override { check_cuda(cudaGraphLaunch(executable_, stream_), "cudaGraphLaunch"); }

 private:
  cudaGraphExec_t executable_ = nullptr;
  cudaStream_t stream_;
};

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(int index) : name_(require_gpu(index).name) {
    // The streams beside the computing one go first where both have work: others wait for what they send.
    int lowest = 0, highest = 0;
    check_cuda(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "cudaDeviceGetStreamPriorityRange");
    for (size_t i = 0; i < streams_.size(); ++i) {
      const bool waits = i == 0 || i == static_cast<size_t>(kCopyStream);
      check_cuda(cudaStreamCreateWithPriority(&streams_[i], cudaStreamNonBlocking, waits ? lowest : highest),
                 "cudaStreamCreate");
    }
  }
  ~CudaDevice() override {
    for (cudaStream_t stream : streams_) cudaStreamDestroy(stream);
  }

  DeviceKind kind() const override { return DeviceKind::kCuda; }
  std::string description() const override { return name_; }
  void* stream(int index) const override { return streams_[static_cast<size_t>(index)]; }
  bool asynchronous() const override { return true; }
  void synchronize() override {
    for (cudaStream_t stream : streams_) check_cuda(cudaStreamSynchronize(stream), "synchronize");
  }
  std::unique_ptr<Event> make_event(bool timing) override { return std::make_unique<CudaEvent>(timing); }
  void record(Event& event, int stream) override {
    check_cuda(cudaEventRecord(static_cast<CudaEvent&>(event).get(), streams_[static_cast<size_t>(stream)]),
               "cudaEventRecord");
  }
  void wait(Event& event, int stream) override {
    check_cuda(cudaStreamWaitEvent(streams_[static_cast<size_t>(stream)], static_cast<CudaEvent&>(event).get(), 0),
               "cudaStreamWaitEvent");
  }
  std::unique_ptr<Graph> capture(const std::function<void()>& enqueue) override {
    check_cuda(cudaStreamBeginCapture(streams_[0], cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    cudaGraph_t graph = nullptr;
    try {
      enqueue();
    } catch (...) {
      cudaStreamEndCapture(streams_[0], &graph);
      if (graph != nullptr) cudaGraphDestroy(graph);
      throw;
    }
    check_cuda(cudaStreamEndCapture(streams_[0], &graph), "cudaStreamEndCapture");
    return std::make_unique<CudaGraph>(graph, streams_[0]);
  }
  int64_t free_bytes() const override {
    size_t free = 0, total = 0;
    check_cuda(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return static_cast<int64_t>(free);
  }

  void copy_to_device(void* target, const void* source, int64_t bytes) override {
    copy(target, source, bytes, cudaMemcpyHostToDevice);
  }
  void copy_to_host(void* target, const void* source, int64_t bytes) override {
    copy(target, source, bytes, cudaMemcpyDeviceToHost);
  }
  void enqueue_to_device(void* target, const void* source, int64_t bytes) override {
    enqueue_copy(target, source, bytes, cudaMemcpyHostToDevice);
  }
  void enqueue_to_host(void* target, const void* source, int64_t bytes, int stream) override {
    enqueue_copy(target, source, bytes, cudaMemcpyDeviceToHost, stream);
  }
  void copy_within(void* target, const void* source, int64_t bytes, int stream) override {
    if (bytes == 0) return;
    check_cuda(cudaMemcpyAsync(target, source, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice,
                               streams_[static_cast<size_t>(stream)]),
               "copy_within");
  }
  void fill_zero(void* target, int64_t bytes) override {
    if (bytes > 0) check_cuda(cudaMemsetAsync(target, 0, static_cast<size_t>(bytes), streams_[0]), "fill_zero");
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
  std::byte* allocate_host(int64_t bytes) override {
    void* data = nullptr;
    check_cuda(cudaMallocHost(&data, static_cast<size_t>(bytes)), "page-locked host memory");
    return static_cast<std::byte*>(data);
  }
  void deallocate_host(std::byte* data) noexcept override { cudaFreeHost(data); }

 private:
  void copy(void* target, const void* source, int64_t bytes, cudaMemcpyKind kind) {
    if (bytes == 0) return;
    enqueue_copy(target, source, bytes, kind);
    synchronize();
  }
  void enqueue_copy(void* target, const void* source, int64_t bytes, cudaMemcpyKind kind, int stream = 0) {
    if (bytes == 0) return;
    check_cuda(cudaMemcpyAsync(target, source, static_cast<size_t>(bytes), kind, streams_[static_cast<size_t>(stream)]),
               "copy");
  }

  std::string name_;
  std::array<cudaStream_t, kAllStreams> streams_{};
};

}  // namespace

std::unique_ptr<Device> make_cuda_device(int index) {
  return std::make_unique<CudaDevice>(index);
}

}  // namespace megatron
