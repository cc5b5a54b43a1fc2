// The part of `megatron doctor` about GPUs and NVIDIA's libraries.
#include <algorithm>
#include <cctype>
#include <fstream>

#include "base/host.h"
#include "base/strings.h"
#include "cli/doctor_checks.h"
#include "device/nvml.h"
#ifdef MEGATRON_HAVE_CUDA
#include "device/gpu.h"
#endif

namespace megatron {
namespace {

constexpr char kSection[] = "gpu";

Finding finding(const std::string& name, Verdict verdict, const std::string& value, const std::string& remedy = "") {
  return {kSection, name, verdict, value, remedy};
}

#ifdef MEGATRON_HAVE_CUDA

/// Why a GPU cannot be used, without the key of the configuration that a run would blame.
std::string plain(const std::string& failure) {
  constexpr std::string_view kKey = "run.device: cuda: ";
  return starts_with(failure, kKey) ? failure.substr(kKey.size()) : failure;
}

/// What is wrong stands before the first semicolon, what to do behind it.
Finding failed(const std::string& name, const std::string& failure) {
  const std::string text = plain(failure);
  const size_t cut = text.find("; ");
  return finding(name, Verdict::kMissing, text.substr(0, cut),
                 cut == std::string::npos ? "see nvidia-smi" : text.substr(cut + 2));
}

constexpr double kMostlyFree = 0.9;

/// "13.1.0" of 130100, as cuBLAS, cuDNN 9 and NCCL count.
std::string library_version(int64_t version) {
  return str_cat(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

struct Library {
  const char* name;
  std::vector<std::string> files;
  const char* version_function;
  bool by_pointer;
  Verdict without;
  const char* remedy;
};

Findings check_libraries(int cuda_major) {
  const std::string major = std::to_string(cuda_major);
  const std::vector<Library> libraries = {
      {"cuBLASLt",
       {"libcublasLt.so." + major},
       "cublasLtGetVersion",
       false,
       Verdict::kMissing,
       "install NVIDIA's package libcublas-<version of CUDA>, or put the library's folder into LD_LIBRARY_PATH"},
      {"cuDNN",
       {"libcudnn.so.9"},
       "cudnnGetVersion",
       false,
       Verdict::kWarn,
       "attention runs with kernels of our own; for cuDNN's install NVIDIA's package libcudnn9-cuda-<major of CUDA>"},
      {"NCCL",
       {"libnccl.so.2"},
       "ncclGetVersion",
       true,
       Verdict::kWarn,
       "runs on one GPU do not need it; for several install NVIDIA's package libnccl2"}};
  Findings findings;
  for (const Library& library : libraries) {
    const LibraryFacts facts = library_facts(library.files, library.version_function, library.by_pointer);
    if (facts.found) {
      findings.push_back(
          finding(library.name, Verdict::kOk, str_cat(library_version(facts.version), ", ", facts.path)));
    } else {
      findings.push_back(finding(library.name, library.without, "not found: " + facts.load_error, library.remedy));
    }
  }
  return findings;
}

/// "node 0" of the PCI device, or empty.
std::string numa_text(const std::string& pci_bus_id) {
  std::ifstream file("/sys/bus/pci/devices/" + lower(pci_bus_id) + "/numa_node");
  int node = -1;
  return file >> node && node >= 0 ? str_cat(", NUMA node ", node) : "";
}

/// What gives pause about a GPU that works: text and remedy, or both empty.
std::pair<std::string, std::string> concern(const GpuFacts& gpu, const GpuHealth& health) {
  if (health.ecc_uncorrected > 0) {
    return {str_cat(health.ecc_uncorrected, " uncorrected memory errors"),
            "reset or replace the GPU (nvidia-smi -q -d ECC): training on it cannot be trusted"};
  }
  if (health.slowed_by_hardware) {
    return {"slowed down by heat or power", "look at cooling and power supply (nvidia-smi -q -d PERFORMANCE)"};
  }
  if (static_cast<double>(gpu.free_bytes) < kMostlyFree * static_cast<double>(gpu.total_bytes)) {
    return {"others use its memory", "end other processes on it (nvidia-smi shows them), or plan with what is free"};
  }
  return {};
}

Finding check_gpu(GpuFacts gpu, bool& usable) {
  const std::string name = str_cat("GPU ", gpu.index);
  const std::string failure = open_gpu(gpu);
  if (!failure.empty()) return failed(name, failure);
  usable = true;
  const GpuHealth health = gpu_health(gpu.pci_bus_id);
  std::string text = str_cat(gpu.name, ", compute capability ", gpu.major, ".", gpu.minor, ", ",
                             format_bytes(static_cast<double>(gpu.free_bytes)), " of ",
                             format_bytes(static_cast<double>(gpu.total_bytes)), " free, PCI ", gpu.pci_bus_id,
                             numa_text(gpu.pci_bus_id));
  if (health.sm_clock_mhz >= 0) text += str_cat(", ", health.sm_clock_mhz, " of ", health.max_sm_clock_mhz, " MHz");
  if (health.temperature_celsius >= 0) text += str_cat(", ", health.temperature_celsius, " C");
  if (health.ecc_enabled >= 0) text += health.ecc_enabled == 1 ? ", ECC on" : ", ECC off";
  if (health.known) text += str_cat(", ", health.active_nvlinks, " NVLinks");
  const auto [what, remedy] = concern(gpu, health);
  if (what.empty()) return finding(name, Verdict::kOk, text);
  return finding(name, Verdict::kWarn, text + "; " + what, remedy);
}

/// One row of the matrix of peers.
Finding check_links(const std::vector<GpuFacts>& gpus, int from) {
  std::vector<std::string> nvlink, pcie, none;
  for (const GpuFacts& to : gpus) {
    if (to.index == from) continue;
    const PeerLink link = peer_link(from, to.index);
    auto& kind = !link.access ? none : link.native_atomics ? nvlink : pcie;
    kind.push_back(std::to_string(to.index));
  }
  std::vector<std::string> parts;
  if (!nvlink.empty()) parts.push_back("NVLink to " + join(nvlink, " "));
  if (!pcie.empty()) parts.push_back("PCIe to " + join(pcie, " "));
  if (!none.empty()) parts.push_back("through host memory to " + join(none, " "));
  const std::string name = str_cat("links of ", from);
  if (none.empty()) return finding(name, Verdict::kOk, join(parts, ", "));
  return finding(name, Verdict::kWarn, join(parts, ", "),
                 "slow between these GPUs: keep tensor parallelism within linked ones (nvidia-smi topo -m); on PCIe "
                 "look at ACS and IOMMU settings");
}

#endif

}  // namespace

#ifdef MEGATRON_HAVE_CUDA

Findings check_gpus(std::string& why_unusable) {
  const CudaFacts facts = cuda_facts();
  const std::string driver = driver_version();
  Findings findings;
  if (facts.failure.empty()) {
    findings.push_back(finding("driver", Verdict::kOk,
                               str_cat(driver.empty() ? "version unknown" : driver, ", serves CUDA ",
                                       cuda_version_text(facts.driver_version))));
  } else {
    findings.push_back(failed("driver", facts.failure));
  }
  findings.push_back(finding("CUDA runtime", Verdict::kOk, cuda_version_text(facts.runtime_version)));
  for (const Finding& library : check_libraries(facts.runtime_version / 1000)) findings.push_back(library);
  bool usable = false;
  for (const GpuFacts& gpu : facts.gpus) findings.push_back(check_gpu(gpu, usable));
  if (facts.gpus.size() > 1) {
    for (const GpuFacts& gpu : facts.gpus) findings.push_back(check_links(facts.gpus, gpu.index));
  }
  if (!usable) why_unusable = facts.failure.empty() ? "no GPU can be used; the report says why" : plain(facts.failure);
  return findings;
}

#else

Findings check_gpus(std::string& why_unusable) {
  why_unusable = "this program was built without CUDA; build it where nvcc is (scripts/build.sh)";
  const std::string driver = driver_version();
  if (driver.empty()) {
    return {finding("driver", Verdict::kMissing, "no NVIDIA driver, and this program was built without CUDA",
                    "nothing to do for runs on the CPU; for GPUs install driver and CUDA Toolkit, and build again")};
  }
  return {finding("driver", Verdict::kWarn, driver + ", but this program was built without CUDA",
                  "install the CUDA Toolkit and build again (scripts/build.sh) to use the GPUs")};
}

#endif

}  // namespace megatron
