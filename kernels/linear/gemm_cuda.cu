// Dense products: the algorithm of each is known from the cache of choices or measured at its first call.
#include "kernels/linear/gemm_cuda.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <map>
#include <string>

#include "device/choice_cache.h"
#include "kernels/cuda/cuda_types.cuh"
#include "kernels/linear/gemm_plan_cuda.h"

namespace megatron {
namespace {

using namespace cuda;  // NOLINT

/// Multiply-adds below which all algorithms take a launch's time.
constexpr double kWorthMeasuring = 1 << 22;

/// "NVIDIA H100 80GB HBM3" as part of a file name.
std::string file_part(std::string name) {
  for (char& c : name) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
    c = letter ? c : (c >= 'A' && c <= 'Z') ? static_cast<char>(c - 'A' + 'a') : '-';
  }
  return name;
}

ChoiceCache open_choices(int device) {
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  const std::string name = properties.name, version = std::to_string(cublasLtGetVersion());
  const std::string folder = user_cache_directory();
  const std::string path = folder.empty() ? "" : folder + "/gemm-" + file_part(name) + "-" + version;
  return ChoiceCache(path, "cuBLASLt " + version + " on " + name + " with " +
                               std::to_string(properties.multiProcessorCount) + " multiprocessors");
}

bool is_capturing(void* stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check_cuda(cudaStreamIsCapturing(stream_of(stream), &status), "cudaStreamIsCapturing");
  return status != cudaStreamCaptureStatusNone;
}

/// What tells products apart, for the map of plans and, as a word, for the file.
using Key = std::array<int64_t, 15>;
Key key_of(const CudaGemm& g) {
  return {g.m,
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
}
std::string word_of(const CudaGemm& g) {
  std::string word = std::string(name_of(g.type)) + "-" + std::string(name_of(g.result)) + "-" +
                     (g.transpose_a ? "T" : "N") + (g.transpose_b ? "T" : "N") + (g.add ? "-add" : "") +
                     (g.bias != nullptr ? "-bias" : "");
  for (const int64_t size : {g.m, g.n, g.k, g.lda, g.ldb, g.ldc}) word += "-" + std::to_string(size);
  for (const void* p : {g.a, g.b, static_cast<const void*>(g.c)}) word += "-a" + std::to_string(alignment_of(p));
  return word;
}

/// Handle, plans and choices of one thread on one device.
class Library {
 public:
  explicit Library(int device) : choices_(open_choices(device)) {
    check_blas(cublasLtCreate(&handle_), "cublasLtCreate");
    report_.path = choices_.keeps() ? choices_.path() : "";
  }
  ~Library() { cublasLtDestroy(handle_); }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;
  cublasLtHandle_t handle() const { return handle_; }
  const GemmChoiceReport& report() const { return report_; }

  GemmPlan& plan(const CudaGemm& g, void* workspace, void* stream) {
    const Key key = key_of(g);
    const auto known = plans_.find(key);
    if (known != plans_.end()) return known->second;
    return plans_.emplace(key, make_plan(g, workspace, stream)).first->second;
  }

 private:
  GemmPlan make_plan(const CudaGemm& g, void* workspace, void* stream) {
    GemmPlan plan = describe_product(g);
    const double work = static_cast<double>(g.m) * static_cast<double>(g.n) * static_cast<double>(g.k);
    if (g.type == DType::kF64 || work < kWorthMeasuring || !choices_.keeps()) {
      return take_first(plan, candidates(handle_, plan, g, 1));
    }
    const std::string word = word_of(g);
    if (take_known(plan, word)) return plan;
    if (is_capturing(stream)) {
      fail_gemm("the " + describe(g) +
                " runs for the first time while a CUDA graph is captured; run the phase once before capturing it");
    }
    const std::vector<GemmAlgorithm> all = candidates(handle_, plan, g, kMostGemmCandidates);
    if (all.size() < 2) return take_first(plan, all);
    measure(plan, g, word, all, workspace, stream);
    return plan;
  }

  static GemmPlan take_first(GemmPlan plan, const std::vector<GemmAlgorithm>& algorithms) {
    plan.found = !algorithms.empty();
    if (plan.found) plan.algorithm = algorithms.front();
    return plan;
  }

  bool take_known(GemmPlan& plan, const std::string& word) {
    const std::optional<std::string> choice = choices_.find(word);
    if (!choice) return false;
    const std::optional<GemmAlgorithm> algorithm = algorithm_of(*choice, handle_, plan);
    if (!algorithm) {
      choices_.forget(word);
      return false;
    }
    plan.algorithm = *algorithm;
    plan.found = true;
    ++report_.loaded;
    return true;
  }

  void measure(GemmPlan& plan, const CudaGemm& g, const std::string& word, const std::vector<GemmAlgorithm>& all,
               void* workspace, void* stream) {
    // Other ranks may wait for the lock before they join a collective that this stream waits for: empty the stream
    // first, so that under the lock only the measured products are waited for.
    check_cuda(cudaStreamSynchronize(stream_of(stream)), "synchronize before measuring products");
    const auto begin = std::chrono::steady_clock::now();
    bool measured = false;
    choices_.find_or_choose(word, [&] {
      measured = true;
      return to_word(all[fastest(handle_, plan, g, all, workspace, stream)]);
    });
    if (!take_known(plan, word)) {
      fail_gemm("cuBLASLt does not take back its own algorithm for the " + describe(g) + " from " + choices_.path());
    }
    if (!measured) return;  // another rank did
    --report_.loaded;
    ++report_.measured;
    report_.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }

  ChoiceCache choices_;
  cublasLtHandle_t handle_ = nullptr;
  std::map<Key, GemmPlan> plans_;
  GemmChoiceReport report_;
};

/// Of the calling thread, for the current device: made at the first product, since loading the library takes time.
Library& library() {
  thread_local std::map<int, Library> libraries;
  int device = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  return libraries.try_emplace(device, device).first->second;
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
  if (g.bias != nullptr && (g.type == DType::kF64 || !blas.plan(g, workspace, stream).found)) {
    launch_spread_bias(g, stream);
    g.bias = nullptr;
    g.add = true;
  }
  GemmPlan& plan = blas.plan(g, workspace, stream);
  if (!plan.found) fail_gemm("cuBLASLt has no algorithm for the " + describe(g));
  check_blas(enqueue(blas.handle(), plan, g, workspace, stream), "cublasLtMatmul", &g);
}

GemmChoiceReport gemm_choice_report() {
  return library().report();
}

}  // namespace megatron
