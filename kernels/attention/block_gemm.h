// One BLAS product of a block, on the calling thread. Parallelism is over blocks of fixed size, so that results do not
// depend on the number of threads.
#pragma once

#include <cblas.h>

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <type_traits>

#include "base/check.h"

// Present when the BLAS is OpenBLAS.
extern "C" __attribute__((weak)) void openblas_set_num_threads(int threads);  // NOLINT

namespace megatron {

/// Keeps the BLAS to one thread per call; some builds remember the number per calling thread.
inline void use_single_threaded_blas() {
  thread_local bool done = false;
  if (done) return;
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  if (openblas_set_num_threads != nullptr) openblas_set_num_threads(1);
  done = true;
}

/// A row-major matrix inside somebody's memory: row i begins at data + i * stride.
template <typename A>
struct Matrix {
  A* data = nullptr;
  int64_t rows = 0, columns = 0, stride = 0;

  Matrix<const A> readable() const { return {data, rows, columns, stride}; }
  A* row(int64_t i) const { return data + i * stride; }
};

/// c = alpha * op(a) op(b) + beta * c, op(x) = x or its transpose. beta 0 never reads c.
template <typename A>
void block_gemm(bool transpose_a, bool transpose_b, A alpha, const Matrix<const A>& a, const Matrix<const A>& b, A beta,
                const Matrix<A>& c) {
  if (c.rows == 0 || c.columns == 0) return;
  use_single_threaded_blas();
  const CBLAS_TRANSPOSE ta = transpose_a ? CblasTrans : CblasNoTrans, tb = transpose_b ? CblasTrans : CblasNoTrans;
  const auto leading = [](int64_t rows, int64_t columns, int64_t stride) {  // a single row may have any stride
    return narrow<int>(std::max<int64_t>(rows > 1 ? stride : columns, 1));
  };
  const int m = narrow<int>(c.rows), n = narrow<int>(c.columns), k = narrow<int>(transpose_a ? a.rows : a.columns);
  const int lda = leading(a.rows, a.columns, a.stride), ldb = leading(b.rows, b.columns, b.stride);
  const int ldc = leading(c.rows, c.columns, c.stride);
  if constexpr (std::is_same_v<A, double>) {
    cblas_dgemm(CblasRowMajor, ta, tb, m, n, k, alpha, a.data, lda, b.data, ldb, beta, c.data, ldc);
  } else {
    cblas_sgemm(CblasRowMajor, ta, tb, m, n, k, alpha, a.data, lda, b.data, ldb, beta, c.data, ldc);
  }
}

}  // namespace megatron
