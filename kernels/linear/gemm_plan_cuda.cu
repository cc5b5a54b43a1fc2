// Products described to cuBLASLt, and its algorithms.
#include "kernels/linear/gemm_plan_cuda.h"

#include <algorithm>
#include <cstring>
#include <functional>

#include "device/cuda_check.h"

namespace megatron {
namespace {

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

template <typename Value>
void set(cublasLtMatmulDesc_t product, cublasLtMatmulDescAttributes_t what, const Value& value) {
  check_blas(cublasLtMatmulDescSetAttribute(product, what, &value, sizeof value), "cublasLtMatmulDescSetAttribute");
}

}  // namespace

std::string describe(const CudaGemm& g) {
  return std::string("product ") + (g.transpose_a ? "T" : "N") + (g.transpose_b ? "T" : "N") +
         " m=" + std::to_string(g.m) + " n=" + std::to_string(g.n) + " k=" + std::to_string(g.k) + " of " +
         std::string(name_of(g.type)) + " to " + std::string(name_of(g.result)) + (g.add ? ", added" : "") +
         (g.bias != nullptr ? ", with bias" : "");
}

void check_blas(cublasStatus_t status, const char* call, const CudaGemm* g) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  fail_gemm(std::string(call) + ": " + cublasLtGetStatusName(status) +
            (g != nullptr ? " for the " + describe(*g) : std::string()));
}

uint32_t alignment_of(const void* p) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  return static_cast<uint32_t>(address == 0 ? 256 : std::min<uintptr_t>(address & (~address + 1), 256));
}

GemmPlan describe_product(const CudaGemm& g) {
  GemmPlan plan;
  const bool wide = g.type == DType::kF64;
  check_blas(cublasLtMatmulDescInit(&plan.product, wide ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
                                    wide ? CUDA_R_64F : CUDA_R_32F),
             "cublasLtMatmulDescInit");
  set(&plan.product, CUBLASLT_MATMUL_DESC_TRANSA, g.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(&plan.product, CUBLASLT_MATMUL_DESC_TRANSB, g.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (g.bias != nullptr) set(&plan.product, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
  if (g.bias != nullptr) set(&plan.product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, g.bias);
  set_layout(&plan.b, g.type, g.transpose_b, g.k, g.n, g.ldb);
  set_layout(&plan.a, g.type, g.transpose_a, g.m, g.k, g.lda);
  set_layout(&plan.c, g.result, false, g.m, g.n, g.ldc);
  return plan;
}

std::vector<GemmAlgorithm> candidates(cublasLtHandle_t handle, GemmPlan& plan, const CudaGemm& g, int most) {
  cublasLtMatmulPreferenceOpaque_t preference;
  check_blas(cublasLtMatmulPreferenceInit(&preference), "cublasLtMatmulPreferenceInit");
  set(&preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(kGemmWorkspaceCuda));
  set(&preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  set(&preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(g.b));
  set(&preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(g.a));
  set(&preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(g.c));
  set(&preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(g.c));
  cublasLtMatmulHeuristicResult_t found[kMostGemmCandidates];
  int count = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle, &plan.product, &plan.b, &plan.a, &plan.c, &plan.c, &preference,
                                     std::min(most, kMostGemmCandidates), found, &count);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED) return {};
  check_blas(status, "cublasLtMatmulAlgoGetHeuristic", &g);
  std::vector<GemmAlgorithm> algorithms;
  for (int i = 0; i < count; ++i) {
    const cublasLtMatmulHeuristicResult_t& one = found[i];
    if (one.state == CUBLAS_STATUS_SUCCESS) algorithms.push_back({one.algo});
  }
  return algorithms;
}

cublasStatus_t enqueue(cublasLtHandle_t handle, GemmPlan& plan, const CudaGemm& g, void* workspace, void* stream) {
  if (g.bias != nullptr) set(&plan.product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, g.bias);
  const double wide[2] = {1.0, g.add ? 1.0 : 0.0};
  const float narrow[2] = {1.0f, g.add ? 1.0f : 0.0f};
  const bool is_wide = g.type == DType::kF64;
  const void* alpha = is_wide ? static_cast<const void*>(&wide[0]) : &narrow[0];
  const void* beta = is_wide ? static_cast<const void*>(&wide[1]) : &narrow[1];
  return cublasLtMatmul(handle, &plan.product, alpha, g.b, &plan.b, g.a, &plan.a, beta, g.c, &plan.c, g.c, &plan.c,
                        &plan.algorithm.data, workspace, static_cast<size_t>(kGemmWorkspaceCuda),
                        static_cast<cudaStream_t>(stream));
}

// -------------------------------------------------------------------------------------------------------- measuring

namespace {

constexpr float kBudget = 120;  ///< milliseconds for the rounds of one product
constexpr int kLeastRounds = 3, kMostRounds = 9;
constexpr float kHopeless = 1.15f;  ///< a candidate so many times slower than the best after two rounds is left out
constexpr float kGain = 0.98f;  ///< a candidate takes this much of the time of cuBLASLt's first one, or is not taken

struct Event {
  cudaEvent_t event = nullptr;
  Event() { check_cuda(cudaEventCreate(&event), "cudaEventCreate"); }
  ~Event() { cudaEventDestroy(event); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
};

/// What C holds, kept beside it and put back at the end; nothing where the product does not read C.
class Saved {
 public:
  Saved(const CudaGemm& g, cudaStream_t stream)
      : c_(g.c), bytes_(static_cast<size_t>(((g.m - 1) * g.ldc + g.n) * size_of(g.result))), stream_(stream) {
    if (!g.add) return;
    if (cudaMalloc(&copy_, bytes_) != cudaSuccess) {
      cudaGetLastError();  // out of memory is no error here
      copy_ = nullptr;
      complete_ = false;
      return;
    }
    check_cuda(cudaMemcpyAsync(copy_, c_, bytes_, cudaMemcpyDeviceToDevice, stream_), "saving C");
  }
  ~Saved() { cudaFree(copy_); }
  Saved(const Saved&) = delete;
  Saved& operator=(const Saved&) = delete;

  bool complete() const { return complete_; }
  void restore() const {
    if (copy_ == nullptr) return;
    check_cuda(cudaMemcpyAsync(c_, copy_, bytes_, cudaMemcpyDeviceToDevice, stream_), "restoring C");
    check_cuda(cudaStreamSynchronize(stream_), "restoring C");
  }

 private:
  void* c_;
  size_t bytes_;
  cudaStream_t stream_;
  void* copy_ = nullptr;
  bool complete_ = true;
};

struct Candidate {
  size_t index = 0;
  std::vector<float> times;  ///< milliseconds
  float median() const {
    std::vector<float> sorted = times;
    std::sort(sorted.begin(), sorted.end());
    return 0.5f * (sorted[(sorted.size() - 1) / 2] + sorted[sorted.size() / 2]);
  }
};

/// Times every candidate once, one after the other, so that a clock that drifts favours none. The first one runs behind
/// a product that is not timed, as all others do: an idle stream would add the time of its launch. Rounds begin with
/// different candidates, since each finds in the cache what the one before left.
void time_round(std::vector<Candidate>& all, cudaStream_t stream, const std::function<void(size_t)>& launch) {
  std::vector<Event> marks(2 * all.size());
  std::rotate(all.begin(), all.begin() + 1, all.end());
  launch(all.back().index);
  for (size_t i = 0; i < all.size(); ++i) {
    check_cuda(cudaEventRecord(marks[2 * i].event, stream), "cudaEventRecord");
    launch(all[i].index);
    check_cuda(cudaEventRecord(marks[2 * i + 1].event, stream), "cudaEventRecord");
  }
  check_cuda(cudaStreamSynchronize(stream), "measuring products");
  for (size_t i = 0; i < all.size(); ++i) {
    float milliseconds = 0;
    check_cuda(cudaEventElapsedTime(&milliseconds, marks[2 * i].event, marks[2 * i + 1].event), "cudaEventElapsedTime");
    all[i].times.push_back(milliseconds);
  }
}

float best_of(const std::vector<Candidate>& all) {
  float best = all.front().median();
  for (const Candidate& one : all) best = std::min(best, one.median());
  return best;
}

/// The candidates that run at all. The first run loads the kernel and is not timed.
std::vector<Candidate> that_run(size_t count, const std::function<cublasStatus_t(size_t)>& launch) {
  std::vector<Candidate> all;
  for (size_t i = 0; i < count; ++i) {
    if (launch(i) == CUBLAS_STATUS_SUCCESS) all.push_back({i, {}});
  }
  return all;
}

}  // namespace

size_t fastest(cublasLtHandle_t handle, GemmPlan plan, const CudaGemm& g, const std::vector<GemmAlgorithm>& algorithms,
               void* workspace, void* stream) {
  if (algorithms.size() < 2) return 0;
  const auto lane = static_cast<cudaStream_t>(stream);
  const Saved saved(g, lane);
  if (!saved.complete()) return 0;
  const auto launch = [&](size_t i) {
    plan.algorithm = algorithms[i];
    return enqueue(handle, plan, g, workspace, stream);
  };
  const auto timed = [&](size_t i) { check_blas(launch(i), "cublasLtMatmul", &g); };
  std::vector<Candidate> all = that_run(algorithms.size(), launch);
  if (all.size() < 2) {
    saved.restore();
    return all.empty() ? 0 : all.front().index;
  }
  float spent = 0;
  for (int round = 0; round < kLeastRounds || (round < kMostRounds && spent < kBudget); ++round) {
    time_round(all, lane, timed);
    for (const Candidate& one : all) spent += one.times.back();
    if (round != 1) continue;
    const float limit = kHopeless * best_of(all);
    std::erase_if(all, [&](const Candidate& one) { return one.median() > limit; });
  }
  saved.restore();
  // The first choice is the one to beat: another one is taken only where the gain is more than noise.
  const auto quickest = std::min_element(
      all.begin(), all.end(), [](const Candidate& a, const Candidate& b) { return a.median() < b.median(); });
  const auto first = std::find_if(all.begin(), all.end(), [](const Candidate& one) { return one.index == 0; });
  if (first != all.end() && quickest->median() > kGain * first->median()) return 0;
  return quickest->index;
}

// ---------------------------------------------------------------------------------------------------------- as words

std::string to_word(const GemmAlgorithm& algorithm) {
  constexpr char kDigits[] = "0123456789abcdef";
  unsigned char bytes[sizeof algorithm.data.data];
  std::memcpy(bytes, algorithm.data.data, sizeof bytes);
  std::string word;
  for (const unsigned char byte : bytes) {
    word += kDigits[byte >> 4];
    word += kDigits[byte & 15];
  }
  return word;
}

std::optional<GemmAlgorithm> algorithm_of(const std::string& word, cublasLtHandle_t handle, GemmPlan& plan) {
  GemmAlgorithm algorithm;
  unsigned char bytes[sizeof algorithm.data.data];
  if (word.size() != 2 * sizeof bytes || word.find_first_not_of("0123456789abcdef") != std::string::npos) return {};
  const auto digit = [&](size_t i) { return word[i] <= '9' ? word[i] - '0' : word[i] - 'a' + 10; };
  for (size_t i = 0; i < sizeof bytes; ++i) {
    bytes[i] = static_cast<unsigned char>(16 * digit(2 * i) + digit(2 * i + 1));
  }
  std::memcpy(algorithm.data.data, bytes, sizeof bytes);
  cublasLtMatmulHeuristicResult_t result{};
  const cublasStatus_t status =
      cublasLtMatmulAlgoCheck(handle, &plan.product, &plan.b, &plan.a, &plan.c, &plan.c, &algorithm.data, &result);
  if (status != CUBLAS_STATUS_SUCCESS || result.workspaceSize > static_cast<size_t>(kGemmWorkspaceCuda)) return {};
  return algorithm;
}

}  // namespace megatron
