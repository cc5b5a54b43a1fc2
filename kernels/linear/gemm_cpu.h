// Dense matrix products on the CPU through the BLAS, cut so that the result does not depend on the number of threads.
#pragma once

#include <cstdint>

namespace megatron {

class ThreadPool;

/// C = op(A) op(B) + beta C, row-major, op(A) [m, k], op(B) [k, n], C [m, n].
template <typename T>
struct GemmArgs {
  bool transpose_a = false, transpose_b = false;
  int64_t m = 0, n = 0, k = 0;
  const T* a = nullptr;
  int64_t lda = 0;
  const T* b = nullptr;
  int64_t ldb = 0;
  T* c = nullptr;
  int64_t ldc = 0;
  T beta = 0;
};

/// Through cblas, one single-threaded call per tile of C; tiles depend on m and n only. beta 0 never reads C.
void gemm(const GemmArgs<float>& args, ThreadPool* pool);
void gemm(const GemmArgs<double>& args, ThreadPool* pool);

/// The definition, in double: the reference of verify_blas() and of tests.
template <typename T>
void gemm_naive(const GemmArgs<T>& args) {
  for (int64_t i = 0; i < args.m; ++i) {
    for (int64_t j = 0; j < args.n; ++j) {
      double sum = args.beta == T(0) ? 0.0 : double(args.beta) * double(args.c[i * args.ldc + j]);
      for (int64_t p = 0; p < args.k; ++p) {
        const T a = args.transpose_a ? args.a[p * args.lda + i] : args.a[i * args.lda + p];
        const T b = args.transpose_b ? args.b[j * args.ldb + p] : args.b[p * args.ldb + j];
        sum += double(a) * double(b);
      }
      args.c[i * args.ldc + j] = static_cast<T>(sum);
    }
  }
}

/// Compares the BLAS with gemm_naive on small odd shapes in all transpositions, and from several threads at once.
/// Takes about a millisecond. Throws DeviceError naming the wrong product: a broken BLAS must not train a model.
void verify_blas();

}  // namespace megatron
