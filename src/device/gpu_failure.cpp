#include "device/gpu_failure.h"

#include "base/strings.h"

namespace megatron {
namespace {

constexpr char kUseCpu[] = "or compute with run.device: cpu";

std::string gpu_text(const GpuFacts& facts) {
  if (facts.name.empty()) return str_cat("GPU ", facts.index);
  return str_cat("GPU ", facts.index, " (", facts.name, ")");
}

std::string memory_text(const GpuFacts& facts) {
  return str_cat(format_bytes(static_cast<double>(facts.free_bytes)), " of ",
                 format_bytes(static_cast<double>(facts.total_bytes)), " are free");
}

std::string driver_failure(const GpuFacts& facts) {
  if (facts.driver_version == 0) {
    return str_cat("there is no NVIDIA driver (libcuda.so.1) on this machine; install one that serves CUDA ",
                   cuda_version_text(facts.runtime_version),
                   ", in a container start it with GPU access (docker run --gpus all), ", kUseCpu);
  }
  return str_cat("the NVIDIA driver is too old: it serves CUDA ", cuda_version_text(facts.driver_version),
                 ", this build needs ", cuda_version_text(facts.runtime_version),
                 "; update the driver, build with a CUDA Toolkit of its version, ", kUseCpu);
}

std::string no_gpu(const GpuFacts& facts) {
  if (facts.visible_set) {
    return str_cat("no GPU is visible: CUDA_VISIBLE_DEVICES is '", facts.visible,
                   "'; name GPUs that nvidia-smi -L lists, or unset it, ", kUseCpu);
  }
  return str_cat("the driver finds no GPU; see nvidia-smi, in a job ask the scheduler for one (Slurm: --gpus), ",
                 kUseCpu);
}

std::string no_such_gpu(const GpuFacts& facts) {
  std::string text = str_cat("this rank wants GPU ", facts.index, ", but ", facts.count,
                             facts.count == 1 ? " GPU is visible" : " GPUs are visible");
  if (facts.visible_set) text += str_cat(" (CUDA_VISIBLE_DEVICES='", facts.visible, "')");
  return text + "; start at most one rank per GPU of a node, or make more GPUs visible";
}

std::string no_code(const GpuFacts& facts) {
  return str_cat(gpu_text(facts), " has compute capability ", facts.major, ".", facts.minor,
                 "; this build has code for ", facts.architectures,
                 " only; build again with -DCMAKE_CUDA_ARCHITECTURES=", facts.major, facts.minor,
                 " (kernels need 9.0 at the least), take another GPU, ", kUseCpu);
}

std::string busy(const GpuFacts& facts) {
  if (facts.mode == ComputeMode::kProhibited) {
    return str_cat(gpu_text(facts),
                   " is in compute mode 'prohibited'; an administrator changes that with nvidia-smi -i ", facts.index,
                   " -c 0; take another GPU with CUDA_VISIBLE_DEVICES, ", kUseCpu);
  }
  const char* why = facts.mode == ComputeMode::kExclusiveProcess
                        ? " is in compute mode 'exclusive process', and another process has it"
                        : " is busy or unavailable";
  return str_cat(gpu_text(facts), why,
                 "; nvidia-smi shows who uses it: wait for that process to end, start one rank "
                 "per GPU, or take another GPU with CUDA_VISIBLE_DEVICES");
}

/// Text for the codes that have a remedy, else empty.
std::string known_failure(int code, const GpuFacts& facts) {
  switch (code) {
    case cuda_status::kInsufficientDriver:
      return driver_failure(facts);
    case cuda_status::kStubLibrary:
      return "the program found the driver stub of the CUDA Toolkit instead of the driver's libcuda.so.1; take "
             "the folder 'stubs' out of LD_LIBRARY_PATH";
    case cuda_status::kNoDevice:
      return no_gpu(facts);
    case cuda_status::kInvalidDevice:
      return no_such_gpu(facts);
    case cuda_status::kInvalidFunction:
    case cuda_status::kNoKernelImage:
      return no_code(facts);
    case cuda_status::kDevicesUnavailable:
      return busy(facts);
    case cuda_status::kOutOfMemory:
      return str_cat(gpu_text(facts), " has too little memory: ", memory_text(facts),
                     "; end other processes on it (nvidia-smi shows them), or make the model's share smaller "
                     "(`megatron plan` shows it)");
    case cuda_status::kUncorrectableMemory:
      return str_cat(gpu_text(facts),
                     " reports a memory error that ECC cannot correct; take this GPU out of service "
                     "(nvidia-smi -q -d ECC) and run again on another one: the newest checkpoint is intact");
    case cuda_status::kIllegalAddress:
    case cuda_status::kMisalignedAddress:
    case cuda_status::kLaunchFailure:
      return str_cat("a kernel failed on ", gpu_text(facts),
                     ", now or in an earlier call; this is a bug of ours or a "
                     "faulty GPU: see the kernel log for Xid messages, and report it with the output of "
                     "compute-sanitizer");
    case cuda_status::kSystemNotReady:
      return "the GPUs are not ready: on NVSwitch machines the service nvidia-fabricmanager has to run, in the version "
             "of the driver";
    case cuda_status::kDriverMismatch:
      return "kernel module and library of the NVIDIA driver have different versions; reboot or reload the module "
             "(this happens after an update of the driver)";
    default:
      return {};
  }
}

}  // namespace

std::string cuda_version_text(int version) {
  if (version == 0) return "none";
  return str_cat(version / 1000, ".", version % 1000 / 10);
}

std::string describe_cuda_failure(const CudaStatus& status, const std::string& what, const GpuFacts& facts) {
  const std::string code = str_cat(status.name, ": ", status.text);
  const std::string known = known_failure(status.code, facts);
  if (known.empty()) return str_cat(what, ": ", gpu_text(facts), ": ", code);
  return str_cat(what, ": ", known, " (", code, ")");
}

std::string describe_out_of_memory(int64_t bytes, const GpuFacts& facts) {
  return str_cat(
      gpu_text(facts), ": could not take ", format_bytes(static_cast<double>(bytes)), " (", bytes,
      " bytes): ", memory_text(facts),
      "; end other processes on it (nvidia-smi shows them), or see with `megatron plan` what the model needs "
      "and make it smaller: training.micro_batch_size, training.recompute_granularity, model.seq_length");
}

}  // namespace megatron
