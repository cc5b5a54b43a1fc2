#include "parallel/rank_device.h"

#include <algorithm>
#include <map>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/host.h"
#include "base/log.h"
#include "base/strings.h"
#include "device/gpu.h"

namespace megatron {
namespace {

std::string pack(const GpuView& view) {
  return str_cat(view.host, "\n", view.local_rank, "\n", view.wanted, "\n", join(view.gpus, ","));
}

GpuView unpack(const std::string& text) {
  const std::vector<std::string> lines = split(text, '\n');
  MEGATRON_CHECK(lines.size() == 4, "a rank described its GPUs otherwise");
  GpuView view{lines[0], std::stoi(lines[1]), lines[2] == "1", {}};
  if (!lines[3].empty()) view.gpus = split(lines[3], ',');
  return view;
}

size_t index_of(const GpuView& view) {
  return view.gpus.size() == 1 ? 0 : static_cast<size_t>(view.local_rank);
}

}  // namespace

int cpu_threads(const RunConfig& run, int local_size) {
  if (run.cpu_threads > 0) return narrow<int>(run.cpu_threads);
  // A launcher may bind each rank to processors of its own, or all ranks of a socket to the same ones.
  return std::max(1, std::min(usable_processors(), online_processors() / local_size));
}

std::string binding_warning(const RunConfig& run, int local_size, int usable, int online) {
  const int share = online / std::max(1, local_size);
  if (run.cpu_threads > 0 || usable >= share || share <= 1) return "";
  return str_cat("this rank may use ", usable, " of ", online, " processors, although ", local_size,
                 " ranks share them: making and loading weights takes that much longer. Start mpirun with "
                 "--bind-to none, or Slurm with more --cpus-per-task");
}

DeviceKind device_kind(const RunConfig& run) {
#ifdef MEGATRON_HAVE_CUDA
  if (run.device == "cuda") return DeviceKind::kCuda;
  if (run.device == "auto" && cuda_device_count() > 0) return DeviceKind::kCuda;
#else
  if (run.device == "cuda") {
    throw DeviceError(
        "run.device: cuda: this program was built without CUDA; build it where nvcc is (scripts/build.sh), or use "
        "run.device: cpu or auto");
  }
#endif
  return DeviceKind::kCpu;
}

std::unique_ptr<Device> make_device(const RunConfig& run) {
  [[maybe_unused]] const DeviceKind kind = device_kind(run);  // refuses cuda where there is none
#ifdef MEGATRON_HAVE_CUDA
  if (kind == DeviceKind::kCuda) return make_cuda_device(0);
  // A driver without a usable GPU is no plain CPU machine: auto must not hide what is wrong.
  if (run.device == "auto") {
    const CudaFacts machine = cuda_facts();
    if (machine.driver_version > 0) log_warn(machine.failure + "; run.device: auto computes on the CPU");
  }
#endif
  return make_cpu_device();
}

int choose_gpu(const std::vector<GpuView>& ranks, int rank) {
  const auto name = [&](size_t r) { return str_cat("rank ", r, " (", ranks[r].host, ")"); };
  std::map<std::pair<std::string, std::string>, size_t> owners;  // by host and PCI address
  for (size_t r = 0; r < ranks.size(); ++r) {
    const GpuView& view = ranks[r];
    if (view.wanted != ranks[0].wanted) {
      throw DeviceError(str_cat("run.device: ", name(r), view.wanted ? " has" : " has no", " GPU, rank 0 (",
                                ranks[0].host, ")", view.wanted ? " has none" : " has one",
                                "; name the device: run.device: cuda or cpu"));
    }
    if (!view.wanted) continue;
    const auto ranks_here =
        std::count_if(ranks.begin(), ranks.end(), [&](const GpuView& v) { return v.host == view.host; });
    const std::string remedy = str_cat("; start at most ", std::max<size_t>(1, view.gpus.size()),
                                       " ranks on this host, or show every rank a GPU of its own");
    if (index_of(view) >= view.gpus.size()) {
      throw DeviceError(str_cat("run.device: cuda: ", view.host, " runs ", ranks_here, " ranks, but ", name(r),
                                " sees ", view.gpus.size(), view.gpus.size() == 1 ? " GPU" : " GPUs", remedy));
    }
    const std::string& address = view.gpus[index_of(view)];
    const auto [owner, is_new] = owners.emplace(std::pair(view.host, address), r);
    if (!is_new) {
      throw DeviceError(
          str_cat("run.device: cuda: ", name(owner->second), " and ", name(r), " would share GPU ", address, remedy));
    }
  }
  const GpuView& mine = ranks[static_cast<size_t>(rank)];
  return mine.wanted ? static_cast<int>(index_of(mine)) : -1;
}

std::unique_ptr<Device> make_device(const RunConfig& run, World& world) {
  GpuView mine;
  mine.host = world.info().host;
  mine.local_rank = world.info().local_rank;
  mine.wanted = device_kind(run) == DeviceKind::kCuda;
#ifdef MEGATRON_HAVE_CUDA
  for (const GpuFacts& gpu : mine.wanted ? cuda_facts().gpus : std::vector<GpuFacts>{})
    mine.gpus.push_back(gpu.pci_bus_id);
#endif
  std::vector<GpuView> ranks;
  for (const std::string& text : world.gather(pack(mine))) ranks.push_back(unpack(text));
  const int gpu = choose_gpu(ranks, world.rank());
#ifdef MEGATRON_HAVE_CUDA
  if (gpu >= 0) return make_cuda_device(gpu);
#endif
  MEGATRON_CHECK(gpu < 0, "a GPU in a build without CUDA");
  return make_cpu_device();
}

}  // namespace megatron
