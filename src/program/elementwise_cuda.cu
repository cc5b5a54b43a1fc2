#include "program/elementwise_cuda.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "device/cuda_check.h"
#include "tensor/cuda_types.cuh"

namespace megatron {
namespace {

using namespace cuda;  // NOLINT: element types

constexpr int kThreads = 256;
constexpr int kUnitsPerThread = 4;  // of a copy: loads in flight before the first store
constexpr int64_t kMaxBlocks = 0x7fffffff;

unsigned blocks_for(int64_t work, int64_t per_block) {
  const int64_t blocks = div_ceil(work, per_block);
  MEGATRON_CHECK(blocks <= kMaxBlocks, "a tensor is too large for one launch");
  return static_cast<unsigned>(blocks);
}

std::string launch_name(const char* kernel, const Tensor& t) {
  return std::string(kernel) + " " + std::string(name_of(t.dtype)) + to_string(t.shape);
}

// ---- two tensors of one shape, walked row by row

/// Two ways to lay out one shape, with dimensions merged that follow each other without a gap in both. `inner` elements
/// lie together; the other dimensions are outer ones, the innermost of them first.
struct Layout {
  int count = 0;
  int64_t inner = 1, rows = 1;
  int64_t sizes[Dims::kMaxRank] = {}, a[Dims::kMaxRank] = {}, b[Dims::kMaxRank] = {};

  __device__ __forceinline__ void offsets(int64_t row, int64_t* offset_a, int64_t* offset_b) const {
    int64_t at_a = 0, at_b = 0;
    for (int i = 0; i < count; ++i) {
      // Division of 64-bit numbers is many times slower, and hardly ever needed.
      const bool small = ((row | sizes[i]) >> 32) == 0;
      const int64_t quotient =
          small ? static_cast<int64_t>(static_cast<uint32_t>(row) / static_cast<uint32_t>(sizes[i])) : row / sizes[i];
      const int64_t index = row - quotient * sizes[i];
      at_a += index * a[i];
      at_b += index * b[i];
      row = quotient;
    }
    *offset_a = at_a;
    *offset_b = at_b;
  }
  __host__ int64_t numel() const { return rows * inner; }
};

Layout make_layout(const Dims& shape, const Dims& strides_a, const Dims& strides_b) {
  Layout l;
  for (int d = shape.rank() - 1; d >= 0; --d) {
    if (shape[d] == 1) continue;
    if (l.count == 0 && strides_a[d] == l.inner && strides_b[d] == l.inner) {
      l.inner *= shape[d];
      continue;
    }
    const int last = l.count - 1;
    if (last >= 0 && strides_a[d] == l.a[last] * l.sizes[last] && strides_b[d] == l.b[last] * l.sizes[last]) {
      l.sizes[last] *= shape[d];
    } else {
      l.sizes[l.count] = shape[d];
      l.a[l.count] = strides_a[d];
      l.b[l.count++] = strides_b[d];
    }
    l.rows *= shape[d];
  }
  return l;
}

/// Do groups of `n` elements of `bytes_a` and `bytes_b` fit both layouts?
bool fits(const Layout& l, int64_t n, const void* a, int64_t bytes_a, const void* b, int64_t bytes_b) {
  if (l.inner % n != 0 || !is_aligned(a, static_cast<size_t>(n * bytes_a)) ||
      !is_aligned(b, static_cast<size_t>(n * bytes_b)))
    return false;
  for (int i = 0; i < l.count; ++i) {
    if (l.a[i] % n != 0 || l.b[i] % n != 0) return false;
  }
  return true;
}

/// The same layout counted in groups of `n` elements.
Layout in_groups(Layout l, int64_t n) {
  l.inner /= n;
  for (int i = 0; i < l.count; ++i) {
    l.a[i] /= n;
    l.b[i] /= n;
  }
  return l;
}

__device__ __forceinline__ void locate(const Layout& l, int64_t i, int64_t* a, int64_t* b) {
  if (l.count == 0) {
    *a = *b = i;
    return;
  }
  const bool small = ((i | l.inner) >> 32) == 0;
  const int64_t row =
      small ? static_cast<int64_t>(static_cast<uint32_t>(i) / static_cast<uint32_t>(l.inner)) : i / l.inner;
  const int64_t column = i - row * l.inner;
  l.offsets(row, a, b);
  *a += column;
  *b += column;
}

// ---- kernels

template <typename U>
__global__ void __launch_bounds__(kThreads) copy_kernel(const U* from, U* to, Layout l, int64_t units) {
  const int64_t first = int64_t{blockIdx.x} * kThreads * kUnitsPerThread + threadIdx.x;
  U values[kUnitsPerThread];
  int64_t targets[kUnitsPerThread];
#pragma unroll
  for (int k = 0; k < kUnitsPerThread; ++k) {
    const int64_t i = first + k * kThreads;
    if (i >= units) break;
    int64_t source;
    locate(l, i, &source, &targets[k]);
    values[k] = from[source];
  }
#pragma unroll
  for (int k = 0; k < kUnitsPerThread; ++k) {
    if (first + k * kThreads >= units) break;
    to[targets[k]] = values[k];
  }
}

template <typename U>
__global__ void __launch_bounds__(kThreads) zero_kernel(U* to, Layout l, int64_t units) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= units) return;
  int64_t a, b;
  locate(l, i, &a, &b);
  to[a] = U{};
}

template <typename S, typename T, int N>
__global__ void __launch_bounds__(kThreads) accumulate_kernel(const S* x, T* sum, Layout l, int64_t groups) {
  using A = cuda::Accumulator<T>;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= groups) return;
  int64_t a, b;
  locate(l, i, &a, &b);
  const Pack<S, N> source = reinterpret_cast<const Pack<S, N>*>(x)[a];
  Pack<T, N>* place = reinterpret_cast<Pack<T, N>*>(sum) + b;
  Pack<T, N> total = *place;
#pragma unroll
  for (int k = 0; k < N; ++k)
    total.v[k] = from_accumulator<T>(to_accumulator<A>(total.v[k]) + to_accumulator<A>(source.v[k]));
  *place = total;
}

/// y may be a, so nothing is __restrict__.
template <typename T, int N, bool kAdds>
__global__ void __launch_bounds__(kThreads) add_kernel(const T* a, const T* b, T* y, int64_t count) {
  using A = cuda::Accumulator<T>;
  const int64_t i = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * N;
  if (i + N <= count) {
    const Pack<T, N> left = *reinterpret_cast<const Pack<T, N>*>(a + i);
    const Pack<T, N> right = *reinterpret_cast<const Pack<T, N>*>(b + i);
    Pack<T, N> sum;
    if constexpr (kAdds) sum = *reinterpret_cast<const Pack<T, N>*>(y + i);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      A v = to_accumulator<A>(left.v[k]) + to_accumulator<A>(right.v[k]);
      if constexpr (kAdds) v += to_accumulator<A>(sum.v[k]);
      sum.v[k] = from_accumulator<T>(v);
    }
    *reinterpret_cast<Pack<T, N>*>(y + i) = sum;
    return;
  }
  for (int64_t j = i; j < count; ++j) {
    A v = to_accumulator<A>(a[j]) + to_accumulator<A>(b[j]);
    if constexpr (kAdds) v += to_accumulator<A>(y[j]);
    y[j] = from_accumulator<T>(v);
  }
}

// ---- launches

template <typename T, int N>
void launch_add(const Tensor& a, const Tensor& b, const Tensor& y, bool adds, cudaStream_t stream) {
  const int64_t count = y.numel();
  const unsigned blocks = blocks_for(count, int64_t{kThreads} * N);
  const T *left = static_cast<const T*>(a.data), *right = static_cast<const T*>(b.data);
  T* sum = static_cast<T*>(y.data);
  if (adds) {
    add_kernel<T, N, true><<<blocks, kThreads, 0, stream>>>(left, right, sum, count);
  } else {
    add_kernel<T, N, false><<<blocks, kThreads, 0, stream>>>(left, right, sum, count);
  }
  check_launch(launch_name("add", y).c_str());
}

template <typename S, typename T, int N>
void launch_accumulate(const Tensor& x, const Tensor& sum, const Layout& l, cudaStream_t stream) {
  const Layout groups = in_groups(l, N);
  accumulate_kernel<S, T, N><<<blocks_for(groups.numel(), kThreads), kThreads, 0, stream>>>(
      static_cast<const S*>(x.data), static_cast<T*>(sum.data), groups, groups.numel());
  check_launch(launch_name("accumulate", sum).c_str());
}

/// Calls body(Tag<unit>, bytes of it) with the largest unit that fits both sides.
template <typename Body>
void with_unit(const Layout& l, int64_t element, const void* a, const void* b, Body&& body) {
  const auto fit = [&](int64_t bytes) { return bytes >= element && fits(l, bytes / element, a, element, b, element); };
  if (fit(16)) return body(Tag<uint4>{}, 16 / element);
  if (fit(8)) return body(Tag<uint2>{}, 8 / element);
  if (fit(4)) return body(Tag<uint32_t>{}, 4 / element);
  if (fit(2)) return body(Tag<uint16_t>{}, 2 / element);
  return body(Tag<uint8_t>{}, 1);
}

}  // namespace

void add_cuda(const Tensor& a, const Tensor& b, const Tensor& y, bool adds, void* stream) {
  MEGATRON_CHECK(a.dtype == y.dtype && b.dtype == y.dtype && a.numel() == y.numel() && b.numel() == y.numel(),
                 "add of unequal types");
  MEGATRON_CHECK(a.contiguous() && b.contiguous() && y.contiguous(), "add takes dense tensors");
  if (y.numel() == 0) return;
  const auto on = static_cast<cudaStream_t>(stream);
  dispatch_cuda("add", y.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (is_aligned(a.data, 16) && is_aligned(b.data, 16) && is_aligned(y.data, 16)) {
      launch_add<T, 16 / static_cast<int>(sizeof(T))>(a, b, y, adds, on);
    } else {
      launch_add<T, 1>(a, b, y, adds, on);
    }
  });
}

void copy_strided_cuda(const Tensor& from, const Tensor& to, void* stream) {
  MEGATRON_CHECK(from.dtype == to.dtype && from.shape == to.shape, "copy between unequal types");
  if (from.numel() == 0) return;
  const auto on = static_cast<cudaStream_t>(stream);
  const Layout l = make_layout(from.shape, from.strides, to.strides);
  if (l.count == 0) {
    check_cuda(cudaMemcpyAsync(to.data, from.data, static_cast<size_t>(from.bytes()), cudaMemcpyDeviceToDevice, on),
               launch_name("copy", to).c_str());
    return;
  }
  with_unit(l, size_of(from.dtype), from.data, to.data, [&](auto tag, int64_t elements) {
    using U = typename decltype(tag)::type;
    const Layout units = in_groups(l, elements);
    copy_kernel<U><<<blocks_for(units.numel(), kThreads * kUnitsPerThread), kThreads, 0, on>>>(
        static_cast<const U*>(from.data), static_cast<U*>(to.data), units, units.numel());
  });
  check_launch(launch_name("copy", to).c_str());
}

void zero_strided_cuda(const Tensor& target, void* stream) {
  if (target.numel() == 0) return;
  const auto on = static_cast<cudaStream_t>(stream);
  const Layout l = make_layout(target.shape, target.strides, target.strides);
  if (l.count == 0) {
    check_cuda(cudaMemsetAsync(target.data, 0, static_cast<size_t>(target.bytes()), on),
               launch_name("zero", target).c_str());
    return;
  }
  with_unit(l, size_of(target.dtype), target.data, target.data, [&](auto tag, int64_t elements) {
    using U = typename decltype(tag)::type;
    const Layout units = in_groups(l, elements);
    zero_kernel<U>
        <<<blocks_for(units.numel(), kThreads), kThreads, 0, on>>>(static_cast<U*>(target.data), units, units.numel());
  });
  check_launch(launch_name("zero", target).c_str());
}

void accumulate_cuda(const Tensor& x, const Tensor& sum, void* stream) {
  MEGATRON_CHECK(x.shape == sum.shape, "accumulation of unequal shapes");
  if (x.numel() == 0) return;
  const auto on = static_cast<cudaStream_t>(stream);
  const Layout l = make_layout(x.shape, x.strides, sum.strides);
  dispatch_cuda("accumulate", x.dtype, [&](auto source) {
    dispatch_cuda("accumulate", sum.dtype, [&](auto target) {
      using S = typename decltype(source)::type;
      using T = typename decltype(target)::type;
      // The wider type fills 16 bytes.
      constexpr int kGroup = 16 / static_cast<int>(sizeof(S) > sizeof(T) ? sizeof(S) : sizeof(T));
      if (fits(l, kGroup, x.data, sizeof(S), sum.data, sizeof(T))) {
        launch_accumulate<S, T, kGroup>(x, sum, l, on);
      } else {
        launch_accumulate<S, T, 1>(x, sum, l, on);
      }
    });
  });
}

}  // namespace megatron
