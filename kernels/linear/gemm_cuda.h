// Dense matrix products on the GPU through cuBLASLt, row-major.
#pragma once

#include <cstdint>
#include <string>

#include "tensor/dtype.h"

namespace megatron {

/// C = op(A) op(B) (+ C) (+ bias), row-major, op(A) [m, k], op(B) [k, n], C [m, n]; leading dimensions in elements.
/// A and B are of `type`; C is of `type`, or fp32 for 16-bit operands. Sums are in fp64 for fp64, else in fp32 (no
/// TF32). The bias [n] is of C's type and excludes `add`. All pointers are device pointers.
struct CudaGemm {
  bool transpose_a = false, transpose_b = false;
  int64_t m = 0, n = 0, k = 0;
  const void* a = nullptr;
  int64_t lda = 0;
  const void* b = nullptr;
  int64_t ldb = 0;
  void* c = nullptr;
  int64_t ldc = 0;
  DType type = DType::kF32, result = DType::kF32;
  bool add = false;
  const void* bias = nullptr;  ///< may be null
};

/// Bytes of workspace that a product may use: what cuBLASLt wants at the most for its fast kernels on Hopper.
constexpr int64_t kGemmWorkspaceCuda = int64_t{32} << 20;

/// `workspace`: kGemmWorkspaceCuda bytes, aligned to 256. Only enqueues, but for the first call of the thread for a
/// product of some size. That one takes the algorithm from the cache of choices (device/choice_cache.h), or else times
/// cuBLASLt's candidates whose sums have one order (about 0.2 s, waits for the stream, may take memory as large as C
/// for that time) and stores the fastest there, which from then on stays: a product has the same bits in every run with
/// the same cache. Without a folder to keep choices in, it is cuBLASLt's first candidate. Throws DeviceError naming the
/// product when the library refuses it, and when it would have to be measured while `stream` is being captured.
void gemm_cuda(const CudaGemm& args, void* workspace, void* stream);

/// Of the calling thread and its current device, since its first product.
struct GemmChoiceReport {
  int loaded = 0, measured = 0;  ///< products whose algorithm came from the cache, or was chosen by timing
  double seconds = 0;            ///< that timing took
  std::string path;              ///< of the cache; "" when nothing is kept, and so nothing measured
};
GemmChoiceReport gemm_choice_report();

/// Throws DeviceError; device code does not see the exceptions.
[[noreturn]] void fail_gemm(const std::string& message);

}  // namespace megatron
