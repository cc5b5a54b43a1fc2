// Attention over keys and values that earlier steps of a generation left behind.
#pragma once

#include <cstdint>
#include <memory>

#include "kernels/attention/attention.h"
#include "program/op_kind.h"
#include "program/trace.h"

namespace megatron {

/// cache[b, position[s,b], g, :] = x[s,b,g,:]; tokens with position < 0 are skipped (padding). cache [b,t,g,d] is
/// state, x [s,b,g,d] may be a strided view, position [s,b] int32. A position >= t is an InternalError: the caller
/// sizes the cache.
void kv_cache_append(Trace& trace, Value cache, Value x, Value position);

/// Attention of new queries over the cache: query (s, b) sees entries t <= position[s,b], and no further back than the
/// window allows; position < 0 gives zeros. q [s,b,g,q,d], k_cache [b,t,g,d], v_cache [b,t,g,e], result [s,b,g,q,e]. Of
/// the options softmax_scale and window_left count (dropout must be 0). Append the queries' own keys and values first.
/// Equal to attention() over all tokens, up to rounding.
Value attention_cached(Trace& trace, Value q, Value k_cache, Value v_cache, Value position,
                       const AttentionOptions& options);

/// Operands cache (updated), x, position; no result.
std::shared_ptr<const OpKind> kv_cache_append_kind();
/// Operands q, k_cache, v_cache, position; result out.
std::shared_ptr<const OpKind> attention_cached_kind(const AttentionOptions& options);

struct KvCacheAppendArgs {
  Tensor cache, x, position;
};
void kv_cache_append_cpu(const KvCacheAppendArgs& args);
/// Device pointers; `stream` is a cudaStream_t. Only in builds with CUDA. A position beyond the cache stops the GPU
/// with a message: the run ends with a DeviceError.
void kv_cache_append_cuda(const KvCacheAppendArgs& args, void* stream);

/// The arguments of attention_cpu() for a cache.
AttentionArgs cached_attention_args(const Tensor& q, const Tensor& k_cache, const Tensor& v_cache,
                                    const Tensor& position, const Tensor& out, const AttentionOptions& options);

}  // namespace megatron
