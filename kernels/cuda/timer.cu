#include "kernels/cuda/timer.h"

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>

#include "device/cuda_check.h"

namespace megatron {
namespace {

constexpr int64_t kFlushBytes = int64_t{256} << 20;
constexpr int kThreads = 256, kBlocks = 1056;

/// Reads everything. The memory is zero, so nothing is ever written, but the compiler does not know.
__global__ void __launch_bounds__(kThreads) read_kernel(uint4* data, int64_t count) {
  unsigned bits = 0;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += int64_t{gridDim.x} * kThreads) {
    const uint4 v = data[i];
    bits |= v.x | v.y | v.z | v.w;
  }
  if (bits != 0) data[0].x = bits;
}

struct DestroyEvent {
  void operator()(cudaEvent_t event) const { cudaEventDestroy(event); }
};
using TimingEvent = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, DestroyEvent>;

TimingEvent make_event() {
  cudaEvent_t event = nullptr;
  check_cuda(cudaEventCreate(&event), "cudaEventCreate");
  return TimingEvent(event);
}

}  // namespace

StreamTimer::StreamTimer(Device& device) : device_(device), flushed_(device, kFlushBytes) {
  device.fill_zero(flushed_.data(), flushed_.bytes());
}

void StreamTimer::flush() {
  read_kernel<<<kBlocks, kThreads, 0, static_cast<cudaStream_t>(device_.stream())>>>(
      reinterpret_cast<uint4*>(flushed_.data()), kFlushBytes / static_cast<int64_t>(sizeof(uint4)));
  check_launch("timer: read_kernel");
}

std::vector<double> StreamTimer::measure(int repeats, const std::function<void()>& launch,
                                         const std::function<void()>& before) {
  const auto stream = static_cast<cudaStream_t>(device_.stream());
  std::vector<TimingEvent> begins, ends;
  for (int i = 0; i < repeats; ++i) {
    begins.push_back(make_event());
    ends.push_back(make_event());
  }
  for (size_t i = 0; i < begins.size(); ++i) {
    if (before) {
      before();
    } else {
      flush();
    }
    check_cuda(cudaEventRecord(begins[i].get(), stream), "cudaEventRecord");
    launch();
    check_cuda(cudaEventRecord(ends[i].get(), stream), "cudaEventRecord");
  }
  device_.synchronize();
  std::vector<double> seconds;
  for (size_t i = 0; i < begins.size(); ++i) {
    float milliseconds = 0;
    check_cuda(cudaEventElapsedTime(&milliseconds, begins[i].get(), ends[i].get()), "cudaEventElapsedTime");
    seconds.push_back(1e-3 * static_cast<double>(milliseconds));
  }
  return seconds;
}

}  // namespace megatron
