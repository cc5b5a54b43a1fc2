#include "device/gpu_failure.h"

#include <string>
#include <vector>

#include "tests/catch.h"

using namespace megatron;

namespace {

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

GpuFacts h100() {
  GpuFacts facts;
  facts.index = 1;
  facts.count = 2;
  facts.name = "NVIDIA H100";
  facts.major = 9;
  facts.total_bytes = int64_t{80} << 30;
  facts.free_bytes = int64_t{3} << 29;
  facts.driver_version = 13000;
  facts.runtime_version = 13000;
  facts.architectures = "9.0";
  return facts;
}

/// The message for a code; every one begins with what was done and ends with the runtime's own words.
std::string message(int code, const GpuFacts& facts) {
  const std::string text =
      describe_cuda_failure({code, "cudaErrorX", "words of the runtime"}, "run.device: cuda", facts);
  INFO(text);
  CHECK(text.rfind("run.device: cuda: ", 0) == 0);
  CHECK(has(text, "cudaErrorX: words of the runtime"));
  return text;
}

}  // namespace

TEST_CASE("gpu failure: no driver, and a driver older than the runtime") {
  GpuFacts facts = h100();
  facts.driver_version = 0;
  const std::string none = message(cuda_status::kInsufficientDriver, facts);
  CHECK(has(none, "no NVIDIA driver"));
  CHECK(has(none, "run.device: cpu"));
  CHECK_FALSE(has(none, "too old"));
  facts.driver_version = 12040;
  const std::string old = message(cuda_status::kInsufficientDriver, facts);
  CHECK(has(old, "too old: it serves CUDA 12.4, this build needs 13.0"));
  CHECK(has(old, "update the driver"));
}

TEST_CASE("gpu failure: none visible, and fewer than the ranks want") {
  GpuFacts facts = h100();
  CHECK(has(message(cuda_status::kNoDevice, facts), "the driver finds no GPU"));
  facts.visible_set = true;
  CHECK(has(message(cuda_status::kNoDevice, facts), "CUDA_VISIBLE_DEVICES is ''"));
  facts.visible = "7";
  CHECK(has(message(cuda_status::kNoDevice, facts), "CUDA_VISIBLE_DEVICES is '7'"));
  facts.index = 2;
  CHECK(has(message(cuda_status::kInvalidDevice, facts), "wants GPU 2, but 2 GPUs are visible"));
}

TEST_CASE("gpu failure: a GPU for which there is no code") {
  GpuFacts facts = h100();
  facts.name = "NVIDIA A100";
  facts.major = 8;
  for (const int code : {cuda_status::kNoKernelImage, cuda_status::kInvalidFunction}) {
    const std::string text = message(code, facts);
    CHECK(has(text, "GPU 1 (NVIDIA A100) has compute capability 8.0"));
    CHECK(has(text, "code for 9.0 only"));
    CHECK(has(text, "CMAKE_CUDA_ARCHITECTURES=80"));
  }
}

TEST_CASE("gpu failure: busy, exclusive and prohibited GPUs are told apart") {
  GpuFacts facts = h100();
  CHECK(has(message(cuda_status::kDevicesUnavailable, facts), "GPU 1 (NVIDIA H100) is busy"));
  facts.mode = ComputeMode::kExclusiveProcess;
  CHECK(has(message(cuda_status::kDevicesUnavailable, facts), "another process has it"));
  facts.mode = ComputeMode::kProhibited;
  CHECK(has(message(cuda_status::kDevicesUnavailable, facts), "nvidia-smi -i 1 -c 0"));
}

TEST_CASE("gpu failure: too little memory names what was wanted and what is there") {
  CHECK(has(message(cuda_status::kOutOfMemory, h100()), "1.50 GiB of 80.00 GiB are free"));
  const std::string text = describe_out_of_memory(int64_t{2} << 30, h100());
  CHECK(has(text, "GPU 1 (NVIDIA H100): could not take 2.00 GiB (2147483648 bytes): 1.50 GiB of 80.00 GiB are free"));
  CHECK(has(text, "training.micro_batch_size"));
}

TEST_CASE("gpu failure: faults of kernels, machines and unknown ones") {
  CHECK(has(message(cuda_status::kIllegalAddress, h100()), "compute-sanitizer"));
  CHECK(has(message(cuda_status::kUncorrectableMemory, h100()), "out of service"));
  CHECK(has(message(cuda_status::kSystemNotReady, h100()), "nvidia-fabricmanager"));
  CHECK(has(message(cuda_status::kDriverMismatch, h100()), "reboot"));
  CHECK(has(message(cuda_status::kStubLibrary, h100()), "LD_LIBRARY_PATH"));
  CHECK(message(12345, h100()) == "run.device: cuda: GPU 1 (NVIDIA H100): cudaErrorX: words of the runtime");
  GpuFacts unknown;
  CHECK(has(message(12345, unknown), "GPU 0: "));
}

TEST_CASE("cuda versions as text") {
  CHECK(cuda_version_text(13000) == "13.0");
  CHECK(cuda_version_text(12080) == "12.8");
  CHECK(cuda_version_text(0) == "none");
}
