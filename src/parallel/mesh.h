// The mesh of a run, from section `parallel` and the number of ranks.
#pragma once

#include <string>
#include <vector>

#include "config/config.h"
#include "parallel/parallel_context.h"
#include "tensor/placement.h"

namespace megatron {

/// All axes of the mesh of `rank`, in Megatron's order tp, cp, ep, dp, pp (first fastest), sizes of 1 included; ep is 1
/// here, since experts have a mesh of their own over the same ranks. dp = world / (tp * cp * pp). UsageError, naming
/// the keys, when that does not divide.
Mesh full_mesh(const ParallelConfig& parallel, int64_t world_size, int64_t rank);

/// The same without the axes of one rank: what modules and communicators take. With several instances of the
/// distributed optimizer dp is cut in two: dp, whose ranks share what is divided, and outside of it dp_outer, one rank
/// of each instance. With cp_comm_type a2a+p2p two axes, cp_a2a inside cp_p2p, stand in the place of cp.
Mesh make_mesh(const ParallelConfig& parallel, int64_t world_size, int64_t rank);

/// The mesh of a rank, and how it is used, as the configuration says.
ParallelContext make_parallel_context(const Config& config, int64_t world_size, int64_t rank);

/// Samples that all data-parallel ranks take at once, a micro-batch of each.
int64_t samples_at_once(const Config& config, const Mesh& mesh);
/// Micro-batches of each rank that a batch of so many samples takes. InternalError when it does not divide, which the
/// rules of the configuration have made sure of.
int64_t micro_batches_of(const Config& config, const Mesh& mesh, int64_t samples);

/// The mesh of the experts over the same ranks: etp, ep, edp, pp; edp = world / (etp * ep * pp). Its pipeline groups
/// are those of full_mesh(). UsageError when that does not divide.
Mesh full_expert_mesh(const ParallelConfig& parallel, int64_t world_size, int64_t rank);

/// All groups along `axes` (names) of a mesh with these sizes; the order of the groups and of the ranks in them is
/// Megatron's.
std::vector<std::vector<int>> groups_of(const Mesh& mesh, const std::vector<std::string>& axes);

}  // namespace megatron
