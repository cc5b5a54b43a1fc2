// Collectives captured into a CUDA graph give the same values at every replay.
#include <cuda_runtime.h>

#include <algorithm>

#include "base/strings.h"
#include "comm/self_check.h"
#include "device/cuda_check.h"

namespace megatron {
namespace {

constexpr int64_t kCount = 1000;

struct Buffers {
  Tensor source, sum, gathered, scattered, received;
};

void put(Device& device, const Tensor& t, float value) {
  const std::vector<float> values(static_cast<size_t>(t.numel()), value);
  device.copy_to_device(t.data, values.data(), t.bytes());
}

void expect(Device& device, const std::string& what, const Tensor& t, const std::vector<float>& wanted,
            CommCheck& check) {
  ++check.cases;
  std::vector<float> got(static_cast<size_t>(t.numel()));
  device.copy_to_host(got.data(), t.data, t.bytes());
  for (size_t i = 0; i < got.size(); ++i) {
    if (got[i] == wanted[i]) continue;
    check.failures.push_back(str_cat(what, " in a CUDA graph: element ", i, " is ", got[i], ", not ", wanted[i]));
    return;
  }
}

}  // namespace

CommCheck check_comm_in_graph(Comm& comm, Device& device) {
  const int n = comm.size(), me = comm.rank();
  const auto stream = static_cast<cudaStream_t>(device.stream());
  std::vector<int64_t> counts;  // uneven: rank r has r + 1 parts
  for (int r = 0; r < n; ++r) counts.push_back(kCount * (r + 1));
  const int64_t total = kCount * n * (n + 1) / 2, mine = counts[static_cast<size_t>(me)];
  Buffer memory(device, (4 * total + mine) * size_of(DType::kF32));
  const auto tensor = [&](int64_t begin, int64_t count) {
    return make_tensor(memory.data() + begin * size_of(DType::kF32), DType::kF32, {count});
  };
  const Buffers b{tensor(0, total), tensor(total, total), tensor(2 * total, total), tensor(4 * total, mine),
                  tensor(3 * total, total)};
  Tensor part = b.source;
  part.shape = {mine};
  CommCheck check;
  comm.barrier(device.stream());
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture of collectives");
  comm.all_reduce(b.source, b.sum, Reduction::kSum, device.stream());
  comm.all_gather(part, b.gathered, counts.data(), device.stream());
  comm.reduce_scatter(b.source, b.scattered, counts.data(), device.stream());
  comm.exchange(b.source, (me + 1) % n, b.received, (me + n - 1) % n, device.stream());
  check_cuda(cudaStreamEndCapture(stream, &graph), "capture of collectives");
  check_cuda(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
  for (int replay = 0; replay < 3; ++replay) {
    const auto value = [&](int rank) { return static_cast<float>((rank + 1) * (replay + 1)); };
    put(device, b.source, value(me));
    check_cuda(cudaGraphLaunch(executable, stream), "cudaGraphLaunch");
    device.synchronize();
    float sum = 0;
    std::vector<float> together;
    for (int r = 0; r < n; ++r) {
      sum += value(r);
      together.insert(together.end(), static_cast<size_t>(counts[static_cast<size_t>(r)]), value(r));
    }
    const auto all = static_cast<size_t>(total);
    expect(device, "all_reduce", b.sum, std::vector<float>(all, sum), check);
    expect(device, "all_gather", b.gathered, together, check);
    expect(device, "reduce_scatter", b.scattered, std::vector<float>(static_cast<size_t>(mine), sum), check);
    expect(device, "exchange", b.received, std::vector<float>(all, value((me + n - 1) % n)), check);
  }
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  return check;
}

}  // namespace megatron
