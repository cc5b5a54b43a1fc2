#include "kernels/linear/gemm_cuda.h"

#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <map>
#include <string>

#include "kernels/cuda/cuda_types.cuh"

namespace megatron {
namespace {

using namespace cuda;  // NOLINT

std::string describe(const CudaGemm& g) {
  return std::string("product ") + (g.transpose_a ? "T" : "N") + (g.transpose_b ? "T" : "N") +
         " m=" + std::to_string(g.m) + " n=" + std::to_string(g.n) + " k=" + std::to_string(g.k) + " of " +
         std::string(name_of(g.type)) + " to " + std::string(name_of(g.result)) + (g.add ? ", added" : "") +
         (g.bias != nullptr ? ", with bias" : "");
}

void check_blas(cublasStatus_t status, const char* call, const CudaGemm* g = nullptr) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  fail_gemm(std::string(call) + ": " + cublasLtGetStatusName(status) +
            (g != nullptr ? " for the " + describe(*g) : std::string()));
}

cudaDataType_t cuda_type(DType type) {
  switch (type) {
    case DType::kF64:
      return CUDA_R_64F;
    case DType::kF32:
      return CUDA_R_32F;
    case DType::kBF16:
      return CUDA_R_16BF;
    case DType::kF16:
      return CUDA_R_16F;
    default:
      fail_dtype("gemm", type);
  }
}

/// What cuBLASLt needs for one product but the pointers. The library is column-major: it computes C^T = op(B)^T
/// op(A)^T, so its first operand is our B.
struct Plan {
  bool found = false;
  cublasLtMatmulDescOpaque_t product;
  cublasLtMatrixLayoutOpaque_t a, b, c;
  cublasLtMatmulAlgo_t algorithm;
};

/// Largest power of two up to 256 that the address is a multiple of.
uint32_t alignment_of(const void* p) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  return static_cast<uint32_t>(address == 0 ? 256 : std::min<uintptr_t>(address & (~address + 1), 256));
}

template <typename Value>
void set(cublasLtMatmulDesc_t product, cublasLtMatmulDescAttributes_t what, const Value& value) {
  check_blas(cublasLtMatmulDescSetAttribute(product, what, &value, sizeof value), "cublasLtMatmulDescSetAttribute");
}

template <typename Value>
void set(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t what, const Value& value) {
  check_blas(cublasLtMatmulPreferenceSetAttribute(preference, what, &value, sizeof value),
             "cublasLtMatmulPreferenceSetAttribute");
}

void set_layout(cublasLtMatrixLayout_t layout, DType type, bool transposed, int64_t rows, int64_t columns, int64_t ld) {
  // A row-major matrix [rows, columns], or its transpose, as it lies in memory: columns come first.
  const int64_t across = transposed ? rows : columns, down = transposed ? columns : rows;
  check_blas(
      cublasLtMatrixLayoutInit(layout, cuda_type(type), static_cast<uint64_t>(across), static_cast<uint64_t>(down), ld),
      "cublasLtMatrixLayoutInit");
}

Plan make_plan(cublasLtHandle_t handle, const CudaGemm& g) {
  Plan plan;
  const bool wide = g.type == DType::kF64;
  check_blas(cublasLtMatmulDescInit(&plan.product, wide ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
                                    wide ? CUDA_R_64F : CUDA_R_32F),
             "cublasLtMatmulDescInit");
  set(&plan.product, CUBLASLT_MATMUL_DESC_TRANSA, g.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(&plan.product, CUBLASLT_MATMUL_DESC_TRANSB, g.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (g.bias != nullptr) {
    set(&plan.product, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(&plan.product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, g.bias);
  }
  set_layout(&plan.b, g.type, g.transpose_b, g.k, g.n, g.ldb);
  set_layout(&plan.a, g.type, g.transpose_a, g.m, g.k, g.lda);
  set_layout(&plan.c, g.result, false, g.m, g.n, g.ldc);
  cublasLtMatmulPreferenceOpaque_t preference;
  check_blas(cublasLtMatmulPreferenceInit(&preference), "cublasLtMatmulPreferenceInit");
  set(&preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(kGemmWorkspaceCuda));
  // Sums over parts of k are kept in the workspace in fp32 and added in a fixed order; never in C's own type.
  set(&preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  set(&preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(g.b));
  set(&preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(g.a));
  set(&preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(g.c));
  set(&preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(g.c));
  cublasLtMatmulHeuristicResult_t choice{};
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle, &plan.product, &plan.b, &plan.a, &plan.c,
                                                               &plan.c, &preference, 1, &choice, &count);
  if (status != CUBLAS_STATUS_NOT_SUPPORTED) check_blas(status, "cublasLtMatmulAlgoGetHeuristic", &g);
  plan.found = status == CUBLAS_STATUS_SUCCESS && count > 0 && choice.state == CUBLAS_STATUS_SUCCESS;
  plan.algorithm = choice.algo;
  return plan;
}

/// Handle and plans of one thread on one device.
class Library {
 public:
  Library() { check_blas(cublasLtCreate(&handle_), "cublasLtCreate"); }
  ~Library() { cublasLtDestroy(handle_); }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;
  cublasLtHandle_t handle() const { return handle_; }

  Plan& plan(const CudaGemm& g) {
    const Key key{g.m,
                  g.n,
                  g.k,
                  g.lda,
                  g.ldb,
                  g.ldc,
                  g.transpose_a,
                  g.transpose_b,
                  static_cast<int64_t>(g.type),
                  static_cast<int64_t>(g.result),
                  g.add,
                  g.bias != nullptr,
                  alignment_of(g.a),
                  alignment_of(g.b),
                  alignment_of(g.c)};
    const auto known = plans_.find(key);
    if (known != plans_.end()) return known->second;
    return plans_.emplace(key, make_plan(handle_, g)).first->second;
  }

 private:
  using Key = std::array<int64_t, 15>;
  cublasLtHandle_t handle_ = nullptr;
  std::map<Key, Plan> plans_;
};

/// Of the calling thread, for the current device: made at the first product, since loading the library takes time.
Library& library() {
  thread_local std::map<int, Library> libraries;
  int device = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  return libraries[device];
}

template <typename T>
__global__ void spread_bias(const T* bias, T* c, int64_t rows, int64_t columns, int64_t ldc) {
  const int64_t count = rows * columns, step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) {
    c[i / columns * ldc + i % columns] = bias[i % columns];
  }
}

/// Rows of C become the bias, for products without a bias of their own.
void launch_spread_bias(const CudaGemm& g, void* stream) {
  dispatch_cuda("bias", g.result, [&](auto tag) {
    using T = typename decltype(tag)::type;
    spread_bias<T><<<grid_size(g.m * g.n, 256, kFullGrid), 256, 0, stream_of(stream)>>>(
        static_cast<const T*>(g.bias), static_cast<T*>(g.c), g.m, g.n, g.ldc);
    check_launch("spread_bias");
  });
}

/// A product over nothing.
void launch_empty(const CudaGemm& g, void* stream) {
  if (g.bias != nullptr) return launch_spread_bias(g, stream);
  if (g.add) return;
  const auto size = static_cast<size_t>(size_of(g.result));
  check_cuda(cudaMemset2DAsync(g.c, static_cast<size_t>(g.ldc) * size, 0, static_cast<size_t>(g.n) * size,
                               static_cast<size_t>(g.m), stream_of(stream)),
             "cudaMemset2DAsync");
}

}  // namespace

void gemm_cuda(const CudaGemm& args, void* workspace, void* stream) {
  MEGATRON_CHECK(args.bias == nullptr || !args.add, "a product has a bias or adds, not both");
  if (args.m == 0 || args.n == 0) return;
  if (args.k == 0) return launch_empty(args, stream);
  Library& blas = library();
  CudaGemm g = args;
  if (g.bias != nullptr && (g.type == DType::kF64 || !blas.plan(g).found)) {
    launch_spread_bias(g, stream);
    g.bias = nullptr;
    g.add = true;
  }
  Plan& plan = blas.plan(g);
  if (!plan.found) fail_gemm("cuBLASLt has no algorithm for the " + describe(g));
  if (g.bias != nullptr) set(&plan.product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, g.bias);
  const double wide[2] = {1.0, g.add ? 1.0 : 0.0};
  const float narrow[2] = {1.0f, g.add ? 1.0f : 0.0f};
  const bool is_wide = g.type == DType::kF64;
  const void* alpha = is_wide ? static_cast<const void*>(&wide[0]) : &narrow[0];
  const void* beta = is_wide ? static_cast<const void*>(&wide[1]) : &narrow[1];
  check_blas(
      cublasLtMatmul(blas.handle(), &plan.product, alpha, g.b, &plan.b, g.a, &plan.a, beta, g.c, &plan.c, g.c, &plan.c,
                     &plan.algorithm, workspace, static_cast<size_t>(kGemmWorkspaceCuda), stream_of(stream)),
      "cublasLtMatmul", &g);
}

}  // namespace megatron
