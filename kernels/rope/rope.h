// Rotary position embedding: Su et al. 2021 (arXiv:2104.09864), with the frequency rules of LLaMA 3 and of YaRN.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "program/op_kind.h"
#include "program/trace.h"

namespace megatron {

class ThreadPool;

/// LLaMA 3 rule: wavelengths above original / low are stretched by factor, those below original / high are kept, those
/// between are blended.
struct Llama3Scaling {
  bool on = false;
  double factor = 8.0, low = 1.0, high = 4.0, original = 8192.0;
};

/// Peng et al. 2023 (arXiv:2309.00071): a ramp between kept and stretched frequencies, and a factor of cos and sin.
struct YarnScaling {
  bool on = false;
  double factor = 1.0, original_max_position = 4096.0, beta_fast = 32.0, beta_slow = 1.0;
  std::optional<double> mscale,
      mscale_all_dim;        ///< one of them missing: the factor of cos and sin is mscale(factor, 1)
  bool round_to_int = true;  ///< bounds of the ramp are rounded to channels
};

struct RopeSpec {
  int64_t head_dim = 0;
  double base = 10000.0;
  double percent = 1.0;                       ///< part of head_dim that rotates; the rest passes through
  bool interleaved = false;                   ///< pairs (2i, 2i + 1) instead of (i, i + rot / 2)
  double seq_len_interpolation_factor = 1.0;  ///< positions are divided by it
  Llama3Scaling llama3;
  YarnScaling yarn;
};

struct RopeTable {
  std::vector<double> inv_freq;  ///< radians per position, one per pair of channels
  double concentration = 1.0;    ///< multiplies cos and sin
};

/// Frequencies of a spec: base^(-2i / rot), rot = int(head_dim * percent), then the scaling rule. Throws UsageError for
/// an odd rot, for both rules at once, and for YaRN with interleaving.
RopeTable rope_table(const RopeSpec& spec);

/// Rotates pairs of channels of every head by the angle position[s,b] * inv_freq / seq_len_interpolation_factor:
/// y1 = x1 cos - x2 sin, y2 = x2 cos + x1 sin. x [s, b, heads..., d], position [s, b] int32; x may be a strided view.
/// Angles are formed in fp64; cos and sin are of the accumulator type, on a GPU within 3e-7 in fp32.
Value rope(Trace& trace, Value x, Value position, const RopeSpec& spec);

/// Operands x, position; result y. `inverse` turns backwards: the gradient.
std::shared_ptr<const OpKind> rope_kind(const RopeSpec& spec, bool inverse = false);

struct RopeArgs {
  Tensor x, position, y;  ///< innermost strides of x and y are 1; y may be x
  const RopeTable* table = nullptr;
  double interpolation = 1.0;
  bool interleaved = false, inverse = false, add = false;
};

void rope_cpu(const RopeArgs& args, void* workspace, ThreadPool* pool);
/// Bytes of `workspace`: cos and sin of every token.
int64_t rope_workspace_cpu(const RopeArgs& args);

/// Device pointers; `stream` is a cudaStream_t. Only in builds with CUDA.
void rope_cuda(const RopeArgs& args, void* stream);

}  // namespace megatron
