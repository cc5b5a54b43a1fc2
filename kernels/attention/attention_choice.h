// Which kernels run attention on a GPU, and why: cuDNN's fused ones where they take the case, else our own. A function
// of shapes, strides, types, options, and of whether this process can use cuDNN; no GPU is needed.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>

#include "kernels/attention/attention.h"

namespace megatron {

/// Strides in elements; the innermost is 1.
struct CudnnStrides {
  int64_t b = 0, h = 0, s = 0;
  auto operator<=>(const CudnnStrides&) const = default;
};

/// The tensors of both directions. q, out, dout, dq, lse [batch, heads, queries, (d)]; k, v, dk, dv [batch, groups,
/// keys, d].
enum CudnnTensor { kCudnnQ, kCudnnK, kCudnnV, kCudnnOut, kCudnnLse, kCudnnDout, kCudnnDq, kCudnnDk, kCudnnDv };
constexpr int kCudnnTensors = 9;

/// One call of cuDNN: what a plan of it is made for, and kept by.
struct CudnnAttention {
  bool backward = false, deterministic = false, statistics = true;
  DType dtype = DType::kBF16;
  int64_t batch = 0, heads = 0, groups = 0, queries = 0, keys = 0, d = 0, e = 0;
  int64_t left = -1, right = -1;  ///< keys that a query sees before and after its own place; -1: all
  double scale = 1;
  std::array<CudnnStrides, kCudnnTensors> strides;  ///< of the whole, in which a part lies
  auto operator<=>(const CudnnAttention&) const = default;
};
std::string describe(const CudnnAttention& call);

/// Bytes of workspace that cuDNN's plan of a call wants: its graph needs just these buffers (9.19 on Hopper, read from
/// the plans of 60 shapes), and a little for the kernels.
int64_t cudnn_workspace(const CudnnAttention& call);

/// What of a pair of parts of a sequence is not masked away, as attention of its own: all queries on the early half of
/// earlier keys, or the late half of the queries on later keys, without a mask; on the queries' own keys plain causal
/// attention. Nothing where options other than that mask speak of places.
struct VisiblePart {
  bool late_queries = false, early_keys = false;
};

struct AttentionChoice {
  bool cudnn = false;
  std::string reason;                        ///< why not cuDNN
  CudnnAttention call;                       ///< of one part
  int64_t batch_parts = 1, group_parts = 1;  ///< equal parts, one after the other, where a whole would need more memory
  int64_t workspace = 0;                     ///< bytes
  std::optional<VisiblePart> part;           ///< what the call takes of a pair of parts of a sequence
  int64_t statistics_offset = 0;             ///< of late_statistics() in the workspace
};

/// Of the arguments of attention of a pair of parts.
std::optional<VisiblePart> visible_part(const AttentionArgs& args);
/// The arguments of that part. `lse`, dense, stands in for the statistics of late queries.
AttentionArgs cut_part(AttentionArgs args, const VisiblePart& part, const Tensor& lse);
AttentionBackwardArgs cut_part(AttentionBackwardArgs args, const VisiblePart& part, const Tensor& lse);
/// Rows [begin, end) of dimension 0; an absent tensor stays absent.
Tensor rows_of_part(Tensor t, int64_t begin, int64_t end);
/// Dense statistics of the late half of the queries, as they lie in `memory`.
Tensor late_statistics(const AttentionArgs& args, void* memory);

/// Of the forward. InternalError when the options ask for cuDNN and it does not take the case.
AttentionChoice choose_attention(const AttentionArgs& args);
/// Of the gradient. cuDNN's deterministic kernels keep the gradients of all probabilities of a part in the workspace;
/// parts are as large as options.workspace_limit allows, one sample and group at least.
AttentionChoice choose_attention(const AttentionBackwardArgs& args);

/// Where one group of one sample needs more, cuDNN is not used.
constexpr int64_t kCudnnMostBytes = int64_t{4} << 30;

/// "cuDNN", "cuDNN in 4 parts", or "own kernel: " and the reason.
std::string describe(const AttentionChoice& choice);

}  // namespace megatron
