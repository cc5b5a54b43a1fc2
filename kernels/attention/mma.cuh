// Tensor-core products of one warp on tiles in shared memory: mma.sync m16n8k16 of the PTX ISA ("Warp Level Matrix
// Multiply-Accumulate Instructions"), 16-bit operands, fp32 sums.
//
// Which elements lane l holds, with r = l / 4 and c = 2 (l % 4):
//   A [16, 16]  a[0] (r, c..c+1)   a[1] (r+8, c..)   a[2] (r, c+8..)   a[3] (r+8, c+8..)
//   B [16, 8]   b[0] (c..c+1, r)   b[1] (c+8.., r)
//   C [16, 8]   c[0], c[1] (r, c..c+1)   c[2], c[3] (r+8, c..c+1)
#pragma once

#include "kernels/cuda/cuda_types.cuh"

namespace megatron::cuda {

/// c += a b.
template <typename T>
__device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same_v<T, BF16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

/// Four 8x8 blocks; lanes 8i .. 8i+7 give the addresses of the rows of block i. Lane l gets elements (l / 4, 2 (l %
/// 4)..) of each block, or (2 (l % 4).., l / 4) of it when transposed.
template <bool kTransposed>
__device__ __forceinline__ void load_blocks(uint32_t (&r)[4], const void* row) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  }
}

/// 16 bytes from global to shared memory, behind the thread's back.
__device__ __forceinline__ void copy_async(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(to))),
               "l"(from)
               : "memory");
}
/// The same for 4 bytes.
__device__ __forceinline__ void copy_word_async(float* to, const float* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(to))),
               "l"(from)
               : "memory");
}
/// Ends a group of copies.
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
/// Waits until at most kPending of the thread's latest groups are under way.
template <int kPending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

/// 2^x, with a relative error of about 2^-22.
__device__ __forceinline__ float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Two numbers in one register, the first in the low half.
template <typename T>
__device__ __forceinline__ uint32_t pack_pair(float low, float high) {
  if constexpr (std::is_same_v<T, BF16>) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  } else {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
}

/// A from rows [row, row + 16) and columns [column, column + 16) of a tile.
template <typename T>
__device__ __forceinline__ void load_a(uint32_t (&a)[4], const T* tile, int pitch, int row, int column) {
  const int lane = threadIdx.x % kWarp;
  load_blocks<false>(a, tile + (row + lane % 16) * pitch + column + lane / 16 * 8);
}

/// c [16, 8 NT] += A [16, 16] times the transpose of rows [0, 8 NT) of `tile`, columns [column, column + 16).
template <typename T, int NT>
__device__ __forceinline__ void multiply_rows(float (&c)[NT][4], const uint32_t (&a)[4], const T* tile, int pitch,
                                              int column) {
  const int lane = threadIdx.x % kWarp;
  const T* from = tile + (lane % 8 + lane / 16 * 8) * pitch + column + lane / 8 % 2 * 8;
#pragma unroll
  for (int n = 0; n < NT; n += 2) {
    uint32_t b[4];
    load_blocks<false>(b, from + n * 8 * pitch);
    multiply<T>(c[n], a, b[0], b[1]);
    multiply<T>(c[n + 1], a, b[2], b[3]);
  }
}

/// c [16, 8 NT] += A [16, 16] times rows [row, row + 16) of `tile`, columns [0, 8 NT).
template <typename T, int NT>
__device__ __forceinline__ void multiply_columns(float (&c)[NT][4], const uint32_t (&a)[4], const T* tile, int pitch,
                                                 int row) {
  const int lane = threadIdx.x % kWarp;
  const T* from = tile + (row + lane % 16) * pitch + lane / 16 * 8;
#pragma unroll
  for (int n = 0; n < NT; n += 2) {
    uint32_t b[4];
    load_blocks<true>(b, from + n * 8);
    multiply<T>(c[n], a, b[0], b[1]);
    multiply<T>(c[n + 1], a, b[2], b[3]);
  }
}

/// Columns [16 k, 16 k + 16) of C as an A in type T.
template <typename T, int NT>
__device__ __forceinline__ void as_a(uint32_t (&a)[4], const float (&c)[NT][4], int k) {
  a[0] = pack_pair<T>(c[2 * k][0], c[2 * k][1]);
  a[1] = pack_pair<T>(c[2 * k][2], c[2 * k][3]);
  a[2] = pack_pair<T>(c[2 * k + 1][0], c[2 * k + 1][1]);
  a[3] = pack_pair<T>(c[2 * k + 1][2], c[2 * k + 1][3]);
}

/// A tile of `rows` rows of kColumns elements, pitch kColumns + 8, from global rows of `width` elements: row(r), or
/// null for zeros. With `vectors` through copy_async: commit and wait before reading.
template <int kColumns, int kThreads, typename T, typename RowOf>
__device__ __forceinline__ void fetch_tile(T* tile, int rows, int width, bool vectors, const RowOf& row) {
  constexpr int kPieces = kColumns / 8;
  for (int i = threadIdx.x; i < rows * kPieces; i += kThreads) {
    const int r = i / kPieces, c = i % kPieces * 8;
    T* to = tile + r * (kColumns + 8) + c;
    const T* from = row(r);
    if (from == nullptr || c >= width) {
      *reinterpret_cast<uint4*>(to) = uint4{0, 0, 0, 0};
    } else if (vectors) {
      copy_async(to, from + c);
    } else {
#pragma unroll
      for (int x = 0; x < 8; ++x) to[x] = c + x < width ? from[c + x] : from_accumulator<T>(0.0f);
    }
  }
}

/// Writes elements (columns c, c + 1) of a row of `width` elements.
template <typename T>
__device__ __forceinline__ void store_pair(T* row, int c, int width, bool vectors, float first, float second) {
  if (vectors) {
    if (c < width) *reinterpret_cast<uint32_t*>(row + c) = pack_pair<T>(first, second);
    return;
  }
  if (c < width) row[c] = from_accumulator<T>(first);
  if (c + 1 < width) row[c + 1] = from_accumulator<T>(second);
}

}  // namespace megatron::cuda
