// CPU kernels of the key-value cache. Attention itself is that of kernels/attention, with the cache seen as [t, b, g,
// d].
#include <algorithm>
#include <string>

#include "base/check.h"
#include "kernels/kv_cache/kv_cache.h"

namespace megatron {
namespace {

Tensor sequence_first(const Tensor& cache) {
  Tensor t = cache;
  t.shape = {cache.shape[1], cache.shape[0], cache.shape[2], cache.shape[3]};
  t.strides = {cache.strides[1], cache.strides[0], cache.strides[2], cache.strides[3]};
  return t;
}

}  // namespace

void kv_cache_append_cpu(const KvCacheAppendArgs& args) {
  if (args.x.numel() == 0) return;
  const Dims &shape = args.x.shape, &from = args.x.strides, &to = args.cache.strides;
  const int64_t capacity = args.cache.shape[1], size = size_of(args.x.dtype);
  const auto* x = static_cast<const std::byte*>(args.x.data);
  auto* cache = static_cast<std::byte*>(args.cache.data);
  for (int64_t s = 0; s < shape[0]; ++s) {
    for (int64_t b = 0; b < shape[1]; ++b) {
      const int64_t place = args.position.as<int32_t>()[s * args.position.strides[0] + b * args.position.strides[1]];
      if (place < 0) continue;
      MEGATRON_CHECK(place < capacity, "position " + std::to_string(place) + " of sample " + std::to_string(b) +
                                           " does not fit the cache of " + std::to_string(capacity) + " tokens");
      for (int64_t g = 0; g < shape[2]; ++g) {
        std::copy_n(x + (s * from[0] + b * from[1] + g * from[2]) * size, shape[3] * size,
                    cache + (b * to[0] + place * to[1] + g * to[2]) * size);
      }
    }
  }
}

AttentionArgs cached_attention_args(const Tensor& q, const Tensor& k_cache, const Tensor& v_cache,
                                    const Tensor& position, const Tensor& out, const AttentionOptions& options) {
  AttentionArgs args;
  args.options = options;
  args.options.causal = true;
  args.options.window_right = -1;
  args.sizes = {q.shape[0], k_cache.shape[1], q.shape[3]};
  args.q = q;
  args.k = sequence_first(k_cache);
  args.v = sequence_first(v_cache);
  args.last_key = position;
  args.out = out;
  return args;
}

}  // namespace megatron
