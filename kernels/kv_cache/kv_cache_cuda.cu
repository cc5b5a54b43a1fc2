// Appending to the key-value cache on the GPU: a copy of bytes in the widest units that alignment allows.
#include <cstdio>

#include "kernels/cuda/cuda_types.cuh"
#include "kernels/kv_cache/kv_cache.h"

namespace megatron {
namespace {

using namespace cuda;  // NOLINT: device helpers

constexpr int kThreads = 128;

/// All sizes and strides in units of the copy, those of position in elements.
struct Append {
  const int32_t* position;
  int64_t position_s, position_b;
  int64_t x_s, x_b, x_g, cache_b, cache_t, cache_g;
  int64_t tokens, batch, groups, units, capacity;
};

/// A block takes one token at a time.
template <typename Unit>
__global__ void __launch_bounds__(kThreads) append_kernel(const Unit* x, Unit* cache, const Append a) {
  for (int64_t token = blockIdx.x; token < a.tokens; token += gridDim.x) {
    const int64_t s = divide(token, a.batch), b = token - s * a.batch;
    const int64_t place = a.position[s * a.position_s + b * a.position_b];
    if (place < 0) continue;
    if (place >= a.capacity) {
      if (threadIdx.x == 0) {
        printf("kv_cache_append: position %lld of sample %lld does not fit the cache of %lld tokens\n",
               static_cast<long long>(place), static_cast<long long>(b), static_cast<long long>(a.capacity));
      }
      __trap();
    }
    const Unit* from = x + s * a.x_s + b * a.x_b;
    Unit* to = cache + b * a.cache_b + place * a.cache_t;
    for (int64_t item = threadIdx.x; item < a.groups * a.units; item += kThreads) {
      const int64_t g = divide(item, a.units), unit = item - g * a.units;
      to[g * a.cache_g + unit] = from[g * a.x_g + unit];
    }
  }
}

}  // namespace

void kv_cache_append_cuda(const KvCacheAppendArgs& args, void* stream) {
  if (args.x.numel() == 0) return;
  const Dims &from = args.x.strides, &to = args.cache.strides;
  const int64_t size = size_of(args.x.dtype);
  int64_t unit = 16;
  const auto fits = [&](int64_t bytes) {
    const auto whole = [&](int64_t elements) { return elements * size % bytes == 0; };
    return is_aligned(args.x.data, static_cast<size_t>(bytes)) &&
           is_aligned(args.cache.data, static_cast<size_t>(bytes)) && whole(args.x.shape[3]) && whole(from[0]) &&
           whole(from[1]) && whole(from[2]) && whole(to[0]) && whole(to[1]) && whole(to[2]);
  };
  while (unit > size && !fits(unit)) unit /= 2;
  const auto units = [&](int64_t elements) { return elements * size / unit; };
  Append a{};
  a.position = data_of<int32_t>(args.position);
  a.position_s = args.position.strides[0], a.position_b = args.position.strides[1];
  a.x_s = units(from[0]), a.x_b = units(from[1]), a.x_g = units(from[2]);
  a.cache_b = units(to[0]), a.cache_t = units(to[1]), a.cache_g = units(to[2]);
  a.tokens = args.x.shape[0] * args.x.shape[1], a.batch = args.x.shape[1];
  a.groups = args.x.shape[2], a.units = units(args.x.shape[3]), a.capacity = args.cache.shape[1];
  const auto launch = [&](auto tag) {
    using Unit = typename decltype(tag)::type;
    append_kernel<<<grid_size(a.tokens, 1, 65535), kThreads, 0, stream_of(stream)>>>(
        static_cast<const Unit*>(args.x.data), static_cast<Unit*>(args.cache.data), a);
  };
  switch (unit) {
    case 16:
      launch(Tag<uint4>{});
      break;
    case 8:
      launch(Tag<uint2>{});
      break;
    case 4:
      launch(Tag<uint32_t>{});
      break;
    case 2:
      launch(Tag<uint16_t>{});
      break;
    default:
      launch(Tag<uint8_t>{});
  }
  check_launch("kv_cache_append");
}

}  // namespace megatron
