#include "parallel/mesh.h"

#include <algorithm>

#include "base/check.h"
#include "base/error.h"
#include "base/strings.h"
#include "comm/mesh_comms.h"

namespace megatron {
namespace {

Mesh with_coordinates(const std::vector<std::pair<std::string, int64_t>>& sizes, int64_t rank) {
  Mesh mesh;
  for (const auto& [name, size] : sizes) {
    mesh.axes.push_back({name, narrow<int>(size), narrow<int>(rank % size)});
    rank /= size;
  }
  MEGATRON_CHECK(rank == 0, "the rank lies outside the mesh");
  return mesh;
}

/// world / product, or a UsageError that says which sizes do not fit.
int64_t ranks_left(int64_t world_size, const std::vector<std::pair<std::string, int64_t>>& sizes) {
  int64_t product = 1;
  std::vector<std::string> texts;
  for (const auto& [key, size] : sizes) {
    product *= size;
    texts.push_back(str_cat(key, " ", size));
  }
  if (product > 0 && world_size % product == 0) return world_size / product;
  const std::string last = texts.back();
  texts.pop_back();
  throw UsageError(str_cat("parallel: ", join(texts, ", "), " and ", last, " make groups of ", product,
                           " ranks, which do not divide the ", world_size, world_size == 1 ? " rank" : " ranks",
                           " that were started; start a multiple of ", product, " ranks or change the sizes"));
}

}  // namespace

Mesh full_mesh(const ParallelConfig& p, int64_t world_size, int64_t rank) {
  const int64_t tp = p.tensor_model_parallel_size, cp = p.context_parallel_size, pp = p.pipeline_model_parallel_size;
  const int64_t dp = ranks_left(
      world_size,
      {{"tensor_model_parallel_size", tp}, {"context_parallel_size", cp}, {"pipeline_model_parallel_size", pp}});
  return with_coordinates({{"tp", tp}, {"cp", cp}, {"ep", 1}, {"dp", dp}, {"pp", pp}}, rank);
}

Mesh make_mesh(const ParallelConfig& parallel, int64_t world_size, int64_t rank) {
  Mesh mesh = full_mesh(parallel, world_size, rank);
  if (parallel.cp_comm_type == std::vector<std::string>{"a2a+p2p"} && parallel.context_parallel_size > 1) {
    const std::vector<int64_t>& sizes = parallel.hierarchical_context_parallel_sizes;
    MEGATRON_CHECK(sizes.size() == 2 && sizes[0] * sizes[1] == parallel.context_parallel_size, "a rule of the config");
    std::vector<std::pair<std::string, int64_t>> axes;
    for (const MeshAxis& axis : mesh.axes) {
      if (axis.name != "cp") {
        axes.emplace_back(axis.name, axis.size);
        continue;
      }
      axes.emplace_back(kContextAxes[1], sizes[0]);
      axes.emplace_back(kContextAxes[2], sizes[1]);
    }
    mesh = with_coordinates(axes, rank);
  }
  std::erase_if(mesh.axes, [](const MeshAxis& axis) { return axis.size == 1; });
  return mesh;
}

ParallelContext make_parallel_context(const ParallelConfig& parallel, int64_t world_size, int64_t rank) {
  return {make_mesh(parallel, world_size, rank), parallel.sequence_parallel, parallel.cp_comm_type.at(0)};
}

Mesh full_expert_mesh(const ParallelConfig& p, int64_t world_size, int64_t rank) {
  const int64_t etp = p.expert_tensor_parallel_size > 0 ? p.expert_tensor_parallel_size : p.tensor_model_parallel_size;
  const int64_t ep = p.expert_model_parallel_size, pp = p.pipeline_model_parallel_size;
  const int64_t edp = ranks_left(
      world_size,
      {{"expert_tensor_parallel_size", etp}, {"expert_model_parallel_size", ep}, {"pipeline_model_parallel_size", pp}});
  return with_coordinates({{"etp", etp}, {"ep", ep}, {"edp", edp}, {"pp", pp}}, rank);
}

std::vector<std::vector<int>> groups_of(const Mesh& mesh, const std::vector<std::string>& axes) {
  std::vector<std::vector<int>> groups;
  std::vector<std::pair<std::string, int64_t>> sizes;
  for (const MeshAxis& axis : mesh.axes) sizes.emplace_back(axis.name, axis.size);
  for (int64_t rank = 0; rank < mesh.world_size(); ++rank) {
    std::vector<int> group = group_of(with_coordinates(sizes, rank), axes);
    if (group[0] == rank) groups.push_back(std::move(group));  // first ranks grow with the number of the group
  }
  return groups;
}

}  // namespace megatron
