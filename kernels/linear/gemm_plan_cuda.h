// What cuBLASLt needs for one product, its candidates for it, and measuring which of them is the fastest. For .cu
// files.
#pragma once

#include <cublasLt.h>

#include <optional>
#include <string>
#include <vector>

#include "kernels/linear/gemm_cuda.h"

namespace megatron {

/// At most so many algorithms are compared.
constexpr int kMostGemmCandidates = 16;

/// Named, because nvcc 13.0 fails on containers of cuBLASLt's nameless struct.
struct GemmAlgorithm {
  cublasLtMatmulAlgo_t data;
};

/// All but the pointers. The library is column-major: it computes C^T = op(B)^T op(A)^T, so its first operand is our B.
struct GemmPlan {
  cublasLtMatmulDescOpaque_t product;
  cublasLtMatrixLayoutOpaque_t a, b, c;
  GemmAlgorithm algorithm;
  bool found = false;  ///< is there an algorithm?
};

/// "product NT m=.. n=.. k=.. of bf16 to fp32, added".
std::string describe(const CudaGemm& g);
/// Throws DeviceError with the call, cuBLASLt's reason and the product.
void check_blas(cublasStatus_t status, const char* call, const CudaGemm* g = nullptr);
/// Largest power of two up to 256 that the address is a multiple of.
uint32_t alignment_of(const void* p);

/// A plan without an algorithm.
GemmPlan describe_product(const CudaGemm& g);

/// At most `most` (and kMostGemmCandidates) algorithms for the product, cuBLASLt's first choice first. Sums over parts
/// of k are kept in the workspace in the type of the sum and added in a fixed order, never in C's own type or in place.
std::vector<GemmAlgorithm> candidates(cublasLtHandle_t handle, GemmPlan& plan, const CudaGemm& g, int most);

/// Enqueues the product with the plan's algorithm.
cublasStatus_t enqueue(cublasLtHandle_t handle, GemmPlan& plan, const CudaGemm& g, void* workspace, void* stream);

/// Index of the fastest of `algorithms` with g's operands on `stream`; 0, cuBLASLt's first choice, unless another one
/// is clearly faster. Waits for the stream. What C holds is put back where the product adds to it, and overwritten
/// where it does not. Takes and gives back memory as large as C where the product adds; 0 where there is not enough of
/// it.
size_t fastest(cublasLtHandle_t handle, GemmPlan plan, const CudaGemm& g, const std::vector<GemmAlgorithm>& algorithms,
               void* workspace, void* stream);

/// An algorithm as a word, and back; nothing when the word is none, or cuBLASLt refuses it for the product.
std::string to_word(const GemmAlgorithm& algorithm);
std::optional<GemmAlgorithm> algorithm_of(const std::string& word, cublasLtHandle_t handle, GemmPlan& plan);

}  // namespace megatron
