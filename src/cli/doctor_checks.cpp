#include "cli/doctor_checks.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "base/disk_speed.h"
#include "base/error.h"
#include "base/host.h"
#include "base/strings.h"
#include "kernels/linear/gemm_cpu.h"
#include "train/version.h"

extern char** environ;

namespace megatron {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20, kGiB = int64_t{1} << 30;
constexpr int64_t kLittleMemory = 2 * kGiB, kLittleDisk = 10 * kGiB, kLittleShared = kGiB;
constexpr int64_t kFewFiles = 4096;
constexpr int64_t kDiskBytes = 256 * kMiB;
constexpr double kDiskSeconds = 3.0, kSlowWrite = 100e6, kSlowSync = 0.05;

std::string size_text(int64_t bytes) {
  return format_bytes(static_cast<double>(bytes));
}

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

std::string rate_text(double bytes_per_second) {
  return format_bytes(bytes_per_second) + "/s";
}

Finding check_blas() {
  try {
    verify_blas();
    return {"host", "BLAS", Verdict::kOk, "a product on the CPU is right", ""};
  } catch (const Error& error) {
    return {"host", "BLAS", Verdict::kMissing, error.what(), "install libopenblas0 again, or another CBLAS"};
  }
}

}  // namespace

const char* name_of(Verdict verdict) {
  switch (verdict) {
    case Verdict::kOk:
      return "ok";
    case Verdict::kWarn:
      return "warn";
    case Verdict::kMissing:
      return "missing";
  }
  return "missing";
}

Findings check_host() {
  const HostFacts host = host_facts();
  Findings findings;
  findings.push_back({"host", "system", Verdict::kOk, host.system, ""});
  findings.push_back({"host", "processor", Verdict::kOk,
                      str_cat(host.processor.empty() ? "unknown" : host.processor, ", ", host.processors,
                              " usable, NUMA nodes: ", host.numa_nodes),
                      ""});
  const bool little = host.memory_available < kLittleMemory;
  findings.push_back(
      {"host", "memory", little ? Verdict::kWarn : Verdict::kOk,
       str_cat(size_text(host.memory_available), " of ", size_text(host.memory_total), " available"),
       little ? "end other programs, or keep to small models: `megatron plan` says what a run takes" : ""});
  findings.push_back(check_blas());
  return findings;
}

Findings check_launch() {
  Findings findings;
  const std::string mpirun = find_program("mpirun");
  if (mpirun.empty()) {
    findings.push_back({"launch", "mpirun", Verdict::kMissing, "not on PATH",
                        "runs of one process do not need it; for several: apt-get install openmpi-bin"});
  } else {
    const std::string version = program_version(mpirun);
    const bool works = !version.empty();
    findings.push_back({"launch", "mpirun", works ? Verdict::kOk : Verdict::kWarn,
                        str_cat(works ? version : "does not tell its version", ", ", mpirun),
                        works ? "" : "try `mpirun --version`; apt-get install --reinstall openmpi-bin"});
  }
  std::vector<std::string> launchers;
  if (!variable("OMPI_COMM_WORLD_RANK").empty()) {
    launchers.push_back(
        str_cat("mpirun, rank ", variable("OMPI_COMM_WORLD_RANK"), " of ", variable("OMPI_COMM_WORLD_SIZE")));
  }
  if (!variable("SLURM_JOB_ID").empty()) {
    launchers.push_back(str_cat("Slurm, job ", variable("SLURM_JOB_ID"), ", process ", variable("SLURM_PROCID"), " of ",
                                variable("SLURM_NTASKS")));
  }
  if (!variable("RANK").empty()) {
    launchers.push_back(str_cat("RANK=", variable("RANK"), " of WORLD_SIZE=", variable("WORLD_SIZE")));
  }
  findings.push_back({"launch", "started by", Verdict::kOk,
                      launchers.empty() ? "hand: no mpirun, Slurm or RANK around this process" : join(launchers, "; "),
                      ""});
  return findings;
}

Findings check_disk(const std::string& folder, bool measure) {
  const FileSystemFacts facts = file_system_facts(folder);
  if (!facts.exists) {
    throw UsageError(str_cat("--dir ", folder, ": there is no such folder; name one that exists and can be written"));
  }
  Findings findings;
  const bool little = facts.free < kLittleDisk;
  findings.push_back({"disk", "space", little ? Verdict::kWarn : Verdict::kOk,
                      str_cat(size_text(facts.free), " of ", size_text(facts.total), " free in ", folder),
                      little ? "a checkpoint takes about 14 bytes per parameter in mixed precision: make room, or put "
                               "checkpoint.save elsewhere"
                             : ""});
  if (!measure) return findings;
  const DiskSpeed speed = measure_disk(folder, std::min(kDiskBytes, facts.free / 4), kDiskSeconds);
  const bool slow = speed.write_rate() < kSlowWrite;
  findings.push_back({"disk", "writing", slow ? Verdict::kWarn : Verdict::kOk,
                      str_cat(rate_text(speed.write_rate()), " with fsync, ", size_text(speed.bytes)),
                      slow ? "checkpoints will take long here: put checkpoint.save on faster storage" : ""});
  const bool late = speed.sync_seconds > kSlowSync;
  char sync[48];
  std::snprintf(sync, sizeof sync, "%.2f ms for 4 KiB", speed.sync_seconds * 1e3);
  findings.push_back({"disk", "fsync", late ? Verdict::kWarn : Verdict::kOk, sync,
                      late ? "each file of a checkpoint waits this long: put checkpoint.save on faster storage" : ""});
  findings.push_back({"disk", "reading", Verdict::kOk,
                      rate_text(speed.read_rate()) + (speed.read_is_cached ? " (from memory, not from storage)" : ""),
                      ""});
  return findings;
}

Findings check_limits() {
  const HostLimits limits = host_limits();
  Findings findings;
  const bool rdma = std::filesystem::exists("/dev/infiniband");
  const bool locked = limits.locked_bytes != kUnlimited && rdma;
  findings.push_back({"limits", "locked memory", locked ? Verdict::kWarn : Verdict::kOk,
                      str_cat(limits.locked_bytes == kUnlimited ? "unlimited" : size_text(limits.locked_bytes),
                              rdma ? "" : " (matters for InfiniBand only, which is not here)"),
                      locked ? "InfiniBand needs it unlimited: ulimit -l unlimited, or memlock in "
                               "/etc/security/limits.conf; docker run --ulimit memlock=-1"
                             : ""});
  const bool few = limits.open_files != kUnlimited && limits.open_files < kFewFiles;
  findings.push_back({"limits", "open files", few ? Verdict::kWarn : Verdict::kOk,
                      limits.open_files == kUnlimited ? "unlimited" : std::to_string(limits.open_files),
                      few ? "many data files and connections need more: ulimit -n 65536" : ""});
  const FileSystemFacts shared = file_system_facts("/dev/shm");
  const bool small = !shared.exists || shared.total < kLittleShared;
  findings.push_back(
      {"limits", "/dev/shm", small ? Verdict::kWarn : Verdict::kOk,
       shared.exists ? str_cat(size_text(shared.free), " of ", size_text(shared.total), " free") : "not there",
       small ? "ranks of one node talk through it: mount it with 1 GiB at the least "
               "(docker run --shm-size=8g)"
             : ""});
  return findings;
}

namespace {

/// A value that makes runs slow or fail, and why.
struct Trap {
  const char* name;
  const char* value;
  const char* remedy;
};
constexpr Trap kTraps[] = {
    {"CUDA_LAUNCH_BLOCKING", "1", "waits after each kernel: unset it unless you are debugging"},
    {"CUDA_VISIBLE_DEVICES", "", "hides all GPUs: unset it"},
    {"NCCL_DEBUG", "TRACE", "prints so much that it slows down: use WARN"},
    {"NCCL_P2P_DISABLE", "1", "GPUs of one node talk through host memory: unset it"},
    {"NCCL_SHM_DISABLE", "1", "ranks of one node talk through the network: unset it"},
    {"NCCL_IB_DISABLE", "1", "nodes talk over TCP instead of InfiniBand: unset it where there is InfiniBand"},
};
constexpr const char* kShown[] = {"NCCL_",     "CUDA_", "CUBLAS_",   "CUDNN_",          "OMP_",
                                  "OPENBLAS_", "UCX_",  "OMPI_MCA_", "LD_LIBRARY_PATH", "LD_PRELOAD"};

Finding judge_variable(const std::string& name, const std::string& value) {
  Finding finding{"environment", name, Verdict::kOk, value.empty() ? "(empty)" : value, ""};
  for (const Trap& trap : kTraps) {
    if (name == trap.name && value == trap.value) finding.remedy = trap.remedy;
  }
  const bool threads = name == "OMP_NUM_THREADS" || name == "OPENBLAS_NUM_THREADS";
  const int processors = host_facts().processors;
  if (threads && std::atoi(value.c_str()) > processors) {
    finding.remedy = str_cat("more threads than the ", processors, " usable processors: set at most that many");
  }
  if (!finding.remedy.empty()) finding.verdict = Verdict::kWarn;
  return finding;
}

}  // namespace

Findings check_environment() {
  Findings findings;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const size_t equals = text.find('=');
    if (equals == std::string::npos) continue;
    const std::string name = text.substr(0, equals);
    const bool shown = std::any_of(std::begin(kShown), std::end(kShown),
                                   [&](const char* prefix) { return starts_with(name, prefix); });
    if (shown) findings.push_back(judge_variable(name, text.substr(equals + 1)));
  }
  std::sort(findings.begin(), findings.end(), [](const Finding& a, const Finding& b) { return a.name < b.name; });
  if (findings.empty()) findings.push_back({"environment", "variables", Verdict::kOk, "none that matters is set", ""});
  return findings;
}

namespace {

struct Tool {
  const char* name;
  const char* use;
  const char* remedy;
};
constexpr Tool kTools[] = {
    {"nvidia-smi", "looks at GPUs",
     "comes with the driver's package nvidia-utils-<version>; in a container pass the GPUs in"},
    {"nvcc", "builds the CUDA code", "NVIDIA's package cuda-toolkit-<version>, needed for building only"},
    {"nsys", "profiles runs", "NVIDIA's package nsight-systems"},
    {"numactl", "binds ranks to processors", "apt-get install numactl"},
    {"python3", "scripts beside the program", "apt-get install python3"},
    {"wandb", "scripts/wandb_sync.py", "pip install wandb"},
    {"tensorboard", "shows the events of a run", "pip install tensorboard"},
};

}  // namespace

Findings check_tools() {
  Findings findings;
  for (const Tool& tool : kTools) {
    const std::string path = find_program(tool.name);
    const bool there = !path.empty();
    findings.push_back({"tools", tool.name, there ? Verdict::kOk : Verdict::kMissing,
                        there ? path : str_cat("not on PATH (", tool.use, ")"), there ? "" : tool.remedy});
  }
  return findings;
}

}  // namespace megatron
