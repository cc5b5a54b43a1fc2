// Which layers lie on which pipeline stage.
#pragma once

#include <cstdint>
#include <vector>

#include "config/config.h"

namespace megatron {

/// A part of the model that one stage computes at a stretch.
struct StagePart {
  int64_t first_layer = 0, layers = 0;   ///< of which it computes anything
  bool embedding = false, loss = false;  ///< begins with the embedding, ends with the loss
  bool begins_in_layer = false;          ///< of its first layer only the MLP: the part before has the attention
  bool ends_in_layer = false;            ///< of its last layer only the attention

  bool operator==(const StagePart&) const = default;
};

/// The parts in the order of the model: part i is chunk i / pipeline_model_parallel_size of stage
/// i % pipeline_model_parallel_size. One part without pipeline parallelism. Upstream's rules:
///  - evenly: num_layers, with the embedding and the loss counted where account_for_..._in_pipeline_split says so;
///  - decoder_first_ and decoder_last_pipeline_num_layers for the ends, the other stages share the rest;
///  - pipeline_model_parallel_layout, which says all of it.
/// The number of chunks follows from num_virtual_stages_per_pipeline_rank, num_layers_per_virtual_pipeline_stage or the
/// layout. UsageError naming keys and numbers: what does not divide, what excludes each other, an empty part.
std::vector<StagePart> split_stages(const ParallelConfig& parallel, int64_t num_layers);

}  // namespace megatron
