// What a model is, as data: a list of layers with their numbers. Families in src/models make specs from the
// configuration; the modules of this room turn them into operations. Nothing here depends on the mesh.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels/activation/activation.h"
#include "kernels/rope/rope.h"
#include "tensor/dtype.h"

namespace megatron {

struct NormSpec {
  enum class Kind : uint8_t { kLayerNorm, kRmsNorm } kind = Kind::kLayerNorm;
  double epsilon = 1e-5;
  bool zero_centered = false;
};

struct AttentionSpec {
  int64_t heads = 0;   ///< query heads
  int64_t groups = 0;  ///< key-value heads; divides heads
  int64_t head_dim = 0;
  bool qkv_bias = false, out_bias = false;
  bool qk_norm = false;  ///< norm over head_dim of queries and keys, before the rotation
  std::optional<RopeSpec> rope;
  int64_t window_left = -1, window_right = -1;  ///< -1: no limit
  double softmax_scale = 1.0;
  double dropout = 0.0;
};

struct MlpSpec {
  int64_t ffn_hidden_size = 0;
  ActivationKind activation = ActivationKind::kGeluTanh;
  bool gated = false;
  bool bias = false;
};

struct LayerSpec {
  NormSpec norm;
  AttentionSpec attention;
  MlpSpec mlp;
  double hidden_dropout = 0.0;
};

struct ModelSpec {
  int64_t hidden_size = 0;
  int64_t vocab_size = 0;         ///< true number of ids
  int64_t padded_vocab_size = 0;  ///< rows of the tables; the rows beyond vocab_size are zero and stay so
  int64_t seq_length = 0;
  int64_t max_positions = 0;
  bool learned_positions = false;
  bool tied = true;  ///< the output layer is the word embedding
  std::vector<LayerSpec> layers;
  NormSpec final_norm;
  double embedding_dropout = 0.0;
  double init_std = 0.02;            ///< of all matrices but the next two
  double output_init_std = 0.02;     ///< of the matrices that write into the residual stream: init_std / sqrt(2 L)
  double embedding_init_std = 0.02;  ///< of word and position tables
  bool xavier_uniform = false;       ///< instead of init_std
  DType dtype = DType::kF32;         ///< of parameters and activations
  uint64_t seed = 1234;              ///< of the dropout masks
  bool deterministic = true;         ///< only operations that give the same bits every time
  /// The residual addition is fused with the next norm. Off where a plan keeps single values to recompute from.
  bool fuse_residual_norm = true;
};

/// True when some module of the model draws random numbers in training.
bool uses_dropout(const ModelSpec& spec);

}  // namespace megatron
