#include "comm/mesh_comms.h"

#include <algorithm>

#include "base/check.h"
#include "base/error.h"
#include "base/strings.h"
#include "comm/local_comm.h"

namespace megatron {
namespace {

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// Index over the axes that `names` has (or has not, with `inside` false), first axis fastest: the place within the
/// group, and the number of the group.
int index_over(const Mesh& mesh, const std::vector<std::string>& names, bool inside) {
  int index = 0, stride = 1;
  for (const MeshAxis& axis : mesh.axes) {
    if (contains(names, axis.name) != inside) continue;
    index += axis.coordinate * stride;
    stride *= axis.size;
  }
  return index;
}

}  // namespace

Comm* MeshComms::find(const std::string& name) const {
  const auto found = by_name.find(name);
  return found == by_name.end() ? nullptr : found->second.get();
}

std::map<std::string, Comm*> MeshComms::axes(const Mesh& mesh) const {
  std::map<std::string, Comm*> comms;
  for (const MeshAxis& axis : mesh.axes) comms[axis.name] = find(axis.name);
  if (Comm* ends = find(kPipelineEnds)) comms[kPipelineEnds] = ends;
  return comms;
}

std::vector<int> group_of(const Mesh& mesh, const std::vector<std::string>& axes) {
  int base = 0, stride = 1;
  std::vector<int> ranks = {0};
  for (const MeshAxis& axis : mesh.axes) {
    if (contains(axes, axis.name)) {
      const size_t before = ranks.size();  // a later axis is slower
      for (int i = 1; i < axis.size; ++i) {
        for (size_t r = 0; r < before; ++r) ranks.push_back(ranks[r] + i * stride);
      }
    } else {
      base += axis.coordinate * stride;
    }
    stride *= axis.size;
  }
  for (int& rank : ranks) rank += base;
  return ranks;
}

MeshComms make_mesh_comms(World& world, const Mesh& mesh, Device& device, std::shared_ptr<FlightRecorder> recorder,
                          Traffic traffic) {
  std::vector<std::string> all;
  for (const MeshAxis& axis : mesh.axes) all.push_back(axis.name);
  MEGATRON_CHECK(mesh.world_size() == world.size() && index_over(mesh, all, true) == world.rank(),
                 str_cat("the mesh is not that of rank ", world.rank(), " of ", world.size()));
  MeshComms comms;
  if (traffic == Traffic::kLocal) {
    comms.owned_world = make_local_comm(world, device);
    comms.world = comms.owned_world.get();
  } else if (device.kind() == DeviceKind::kCuda) {
    if (world.size() > 1) comms.owned_world = make_nccl_comm(world, "world");
    comms.world = comms.owned_world.get();
  } else {
    comms.world = &world.host_comm();
  }
  const auto add = [&](const std::string& name, int colour, int key) {  // in one order on all ranks
    auto comm = comms.world->split(colour, key, name);
    comms.by_name[name] = recorder ? make_recorded_comm(std::move(comm), recorder) : std::move(comm);
  };
  for (const std::string& axis : all) add(axis, index_over(mesh, {axis}, false), index_over(mesh, {axis}, true));
  if (!contains(all, "pp")) return comms;
  const int others = index_over(mesh, {"pp"}, false), stage = index_over(mesh, {"pp"}, true);
  const bool is_end = stage == 0 || stage == mesh.axes[static_cast<size_t>(mesh.find("pp"))].size - 1;
  add(kPipelineBackward, others, stage);
  add(kPipelineEnds, is_end ? others : world.size() + world.rank(), stage);
  return comms;
}

#ifndef MEGATRON_HAVE_NCCL
std::unique_ptr<Comm> make_nccl_comm(World&, const std::string&) {
  throw DeviceError("this program was built without NCCL, which moves tensors between GPUs; build it where nccl.h is");
}
#endif

}  // namespace megatron
