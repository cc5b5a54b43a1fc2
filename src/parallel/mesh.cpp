#include "parallel/mesh.h"

#include <algorithm>

#include "base/check.h"
#include "base/error.h"
#include "base/strings.h"
#include "comm/mesh_comms.h"
#include "config/layer_config.h"

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
  return with_coordinates({{"tp", tp}, {"cp", cp}, {"ep", 1}, {kDataAxis, dp}, {"pp", pp}}, rank);
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
  const auto instances = narrow<int>(parallel.num_distributed_optimizer_instances);
  const auto dp = static_cast<size_t>(mesh.find(kDataAxis));
  if (instances > 1) {
    if (mesh.axes[dp].size % instances != 0) {
      throw UsageError(str_cat("parallel.num_distributed_optimizer_instances ", instances,
                               " does not divide the data-parallel size ", mesh.axes[dp].size));
    }
    const int inner = mesh.axes[dp].size / instances, at = mesh.axes[dp].coordinate;
    mesh.axes[dp] = {kDataAxis, inner, at % inner};
    mesh.axes.insert(mesh.axes.begin() + static_cast<std::ptrdiff_t>(dp) + 1, {kOuterData, instances, at / inner});
  }
  std::erase_if(mesh.axes, [](const MeshAxis& axis) { return axis.size == 1; });
  return mesh;
}

namespace {

Sharding sharding_of(const std::string& strategy) {
  const char* const names[] = {"no_shard", "optim", "optim_grads", "optim_grads_params"};
  const auto found = std::find(std::begin(names), std::end(names), strategy);
  MEGATRON_CHECK(found != std::end(names), "data_parallel_sharding_strategy " + strategy);
  return static_cast<Sharding>(found - std::begin(names));
}

}  // namespace

ParallelContext make_parallel_context(const Config& config, int64_t world_size, int64_t rank) {
  const ParallelConfig& p = config.parallel;
  const Mesh mesh = make_mesh(p, world_size, rank);
  DataParallel data;
  data.sharding = sharding_of(p.data_parallel_sharding_strategy);
  data.overlap_grad_reduce = p.overlap_grad_reduce;
  data.overlap_param_gather = p.overlap_param_gather;
  data.reduce_in_bf16 = config.precision.grad_reduce_in_bf16;
  data.bucket_elements =
      p.ddp_bucket_size.value_or(std::max<int64_t>(40'000'000, 1'000'000 * data_parallel_size(mesh)));
  return ParallelContext(mesh, p.sequence_parallel, data)
      .in_pieces(tp_overlap_pieces(config))
      .with_context(p.cp_comm_type.at(0));
}

int64_t samples_at_once(const Config& config, const Mesh& mesh) {
  return config.training.micro_batch_size * data_parallel_size(mesh);
}

int64_t micro_batches_of(const Config& config, const Mesh& mesh, int64_t samples) {
  return div_exact(samples, samples_at_once(config, mesh));
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
