#include "kernels/linear/gemm_cpu.h"

#include <cblas.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/error.h"
#include "base/philox.h"
#include "base/thread_pool.h"

// Present in OpenBLAS only. Our own pool cuts the work, so the BLAS must not start threads.
extern "C" __attribute__((weak)) void openblas_set_num_threads(int threads);  // NOLINT

namespace megatron {
namespace {

/// The OpenMP build of OpenBLAS keeps the number per calling thread, so each thread says it once.
void make_blas_single_threaded() {
  thread_local bool done = false;
  if (done) return;
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  if (openblas_set_num_threads != nullptr) openblas_set_num_threads(1);
  done = true;
}

void call_blas(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, int m, int n, int k, const float* a, int lda, const float* b,
               int ldb, float beta, float* c, int ldc) {
  cblas_sgemm(CblasRowMajor, ta, tb, m, n, k, 1.0f, a, lda, b, ldb, beta, c, ldc);
}

void call_blas(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, int m, int n, int k, const double* a, int lda, const double* b,
               int ldb, double beta, double* c, int ldc) {
  cblas_dgemm(CblasRowMajor, ta, tb, m, n, k, 1.0, a, lda, b, ldb, beta, c, ldc);
}

/// Part of C that one call makes. Big enough that packing costs little, small enough to feed all cores.
constexpr int64_t kTileRows = 192, kTileColumns = 512;

template <typename T>
void scale_rows(const GemmArgs<T>& args) {
  for (int64_t i = 0; i < args.m; ++i) {
    for (int64_t j = 0; j < args.n; ++j) {
      T& c = args.c[i * args.ldc + j];
      c = args.beta == T(0) ? T(0) : args.beta * c;
    }
  }
}

template <typename T>
void gemm_tiles(const GemmArgs<T>& args, ThreadPool* pool) {
  if (args.m == 0 || args.n == 0) return;
  if (args.k == 0) return scale_rows(args);
  const int64_t row_tiles = div_ceil(args.m, kTileRows), column_tiles = div_ceil(args.n, kTileColumns);
  const int lda = narrow<int>(args.lda), ldb = narrow<int>(args.ldb), ldc = narrow<int>(args.ldc);
  const int k = narrow<int>(args.k);
  pool->parallel_for(row_tiles * column_tiles, 1, [&](int64_t begin, int64_t end) {
    make_blas_single_threaded();
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t i = tile / column_tiles * kTileRows, j = tile % column_tiles * kTileColumns;
      const T* a = args.transpose_a ? args.a + i : args.a + i * args.lda;
      const T* b = args.transpose_b ? args.b + j * args.ldb : args.b + j;
      call_blas(args.transpose_a ? CblasTrans : CblasNoTrans, args.transpose_b ? CblasTrans : CblasNoTrans,
                static_cast<int>(std::min(kTileRows, args.m - i)), static_cast<int>(std::min(kTileColumns, args.n - j)),
                k, a, lda, b, ldb, args.beta, args.c + i * args.ldc + j, ldc);
    }
  });
}

template <typename T>
void verify_product(const char* name, bool ta, bool tb, int64_t m, int64_t n, int64_t k, double tolerance,
                    ThreadPool* pool) {
  const uint64_t key = philox_key(1, static_cast<uint64_t>(m * 131 + n * 17 + k));
  std::vector<T> a(static_cast<size_t>(m * k)), b(static_cast<size_t>(k * n)), c(static_cast<size_t>(m * n));
  for (size_t i = 0; i < a.size(); ++i) a[i] = static_cast<T>(philox_normal(key, i));
  for (size_t i = 0; i < b.size(); ++i) b[i] = static_cast<T>(philox_normal(key + 1, i));
  for (size_t i = 0; i < c.size(); ++i) c[i] = static_cast<T>(philox_normal(key + 2, i));
  std::vector<T> expected = c;
  GemmArgs<T> args{ta, tb, m, n, k, a.data(), ta ? m : k, b.data(), tb ? k : n, c.data(), n, T(1)};
  gemm(args, pool);
  args.c = expected.data();
  gemm_naive(args);
  for (size_t i = 0; i < c.size(); ++i) {
    if (std::abs(double(c[i]) - double(expected[i])) <= tolerance * std::sqrt(static_cast<double>(k) + 1)) continue;
    throw DeviceError(std::string("the BLAS library gives a wrong ") + name + " product (" + (ta ? "T" : "N") +
                      (tb ? "T" : "N") + ", m=" + std::to_string(m) + ", n=" + std::to_string(n) +
                      ", k=" + std::to_string(k) + "): element " + std::to_string(i) + " is " +
                      std::to_string(double(c[i])) + " instead of " + std::to_string(double(expected[i])) +
                      ". Install another one (Debian: libopenblas0-pthread) and choose it with update-alternatives.");
  }
}

}  // namespace

void gemm(const GemmArgs<float>& args, ThreadPool* pool) {
  gemm_tiles(args, pool);
}
void gemm(const GemmArgs<double>& args, ThreadPool* pool) {
  gemm_tiles(args, pool);
}

void verify_blas() {
  ThreadPool pool(2);
  for (const bool ta : {false, true}) {
    for (const bool tb : {false, true}) {
      verify_product<float>("fp32", ta, tb, 7, 5, 33, 2e-5, &pool);
      verify_product<double>("fp64", ta, tb, 7, 5, 33, 4e-14, &pool);
      verify_product<float>("fp32", ta, tb, kTileRows + 3, 9, 17, 2e-5, &pool);
      verify_product<double>("fp64", ta, tb, kTileRows + 3, 9, 17, 4e-14, &pool);
    }
  }
}

}  // namespace megatron
