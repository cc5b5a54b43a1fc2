#include "kernels/attention/attention_cudnn.h"

#include "base/error.h"
#include "base/strings.h"

#ifdef MEGATRON_HAVE_CUDNN
#define NV_CUDNN_FRONTEND_USE_DYNAMIC_LOADING
#define NV_CUDNN_FRONTEND_DISABLE_LOGGING
#define CUDNN_FRONTEND_SKIP_JSON_LIB
#include <cudnn_frontend.h>
#include <dlfcn.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

/// The library, as the front end wants to be told of it.
void* cudnn_frontend::cudnn_dlhandle = nullptr;
#endif

namespace megatron {

#ifdef MEGATRON_HAVE_CUDNN

namespace {

namespace fe = cudnn_frontend;
using fe::graph::Tensor_attributes;
using TensorNode = std::shared_ptr<Tensor_attributes>;

constexpr size_t kLeastVersion = 91900;  ///< what cudnn_workspace() was measured with

void check(fe::error_t error, const char* what, const CudnnAttention& call) {
  if (error.is_good()) return;
  throw DeviceError(str_cat("cuDNN, ", what, ": ", error.get_message(), " (", describe(call), ")"));
}

void check(cudnnStatus_t status, const char* what) {
  if (status != CUDNN_STATUS_SUCCESS) throw DeviceError(str_cat(what, ": cuDNN status ", static_cast<int>(status)));
}

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw DeviceError(str_cat(what, ": ", cudaGetErrorString(error)));
}

std::string open_library() {
  // The front end would take the first CUDA runtime it finds, of whatever version.
  setenv("CUDNN_FRONTEND_CUDART_LIB_NAME", str_cat("libcudart.so.", CUDART_VERSION / 1000).c_str(), 0);
  fe::cudnn_dlhandle = dlopen("libcudnn.so.9", RTLD_NOW);
  if (fe::cudnn_dlhandle == nullptr) return "libcudnn.so.9 cannot be opened";
  const size_t version = fe::detail::get_backend_version();
  if (version < kLeastVersion) return str_cat("cuDNN ", version, " is older than ", kLeastVersion);
  return "";
}

struct Plan {
  fe::graph::Graph graph;
  int64_t workspace = 0;
};

fe::DataType_t data_type(DType dtype) {
  return dtype == DType::kBF16 ? fe::DataType_t::BFLOAT16 : fe::DataType_t::HALF;
}

/// Sizes and strides of one of the tensors of a call.
Tensor_attributes attributes(const CudnnAttention& c, CudnnTensor place) {
  const bool key = place == kCudnnK || place == kCudnnDk, value = place == kCudnnV || place == kCudnnDv;
  const bool of_values = value || place == kCudnnOut || place == kCudnnDout;
  const int64_t inner = place == kCudnnLse ? 1 : of_values ? c.e : c.d;
  // cuDNN wants the statistics of a call dense; those of a part of the groups are, of one sample.
  const CudnnStrides s = place == kCudnnLse ? CudnnStrides{c.heads * c.queries, c.queries, 1} : c.strides[place];
  Tensor_attributes t;
  t.set_uid(place + 1)
      .set_dim({c.batch, key || value ? c.groups : c.heads, key || value ? c.keys : c.queries, inner})
      .set_stride({s.b, s.h, s.s, 1})
      .set_data_type(place == kCudnnLse ? fe::DataType_t::FLOAT : data_type(c.dtype));
  return t;
}

void set_output(const CudnnAttention& c, CudnnTensor place, const TensorNode& node) {
  const Tensor_attributes wanted = attributes(c, place);
  node->set_output(true)
      .set_uid(wanted.get_uid())
      .set_dim(wanted.get_dim())
      .set_stride(wanted.get_stride())
      .set_data_type(wanted.get_data_type());
}

/// The band of keys that a query sees. The front end counts the query's own place in the left bound.
template <typename Options>
void set_band(const CudnnAttention& c, Options& options) {
  options.set_attn_scale(static_cast<float>(c.scale));
  if (c.left < 0 && c.right < 0) return;
  options.set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT);
  if (c.left >= 0) options.set_diagonal_band_left_bound(narrow<int>(c.left + 1));
  if (c.right >= 0) options.set_diagonal_band_right_bound(narrow<int>(c.right));
}

void describe_forward(const CudnnAttention& c, fe::graph::Graph& graph) {
  fe::graph::SDPA_attributes options;
  options.set_name("attention").set_generate_stats(c.statistics);
  set_band(c, options);
  const auto [out, lse] = graph.sdpa(graph.tensor(attributes(c, kCudnnQ)), graph.tensor(attributes(c, kCudnnK)),
                                     graph.tensor(attributes(c, kCudnnV)), options);
  set_output(c, kCudnnOut, out);
  if (c.statistics) set_output(c, kCudnnLse, lse);
}

void describe_backward(const CudnnAttention& c, fe::graph::Graph& graph) {
  fe::graph::SDPA_backward_attributes options;
  options.set_name("attention_backward").set_deterministic_algorithm(c.deterministic);
  set_band(c, options);
  const auto input = [&](CudnnTensor place) { return graph.tensor(attributes(c, place)); };
  const auto [dq, dk, dv] = graph.sdpa_backward(input(kCudnnQ), input(kCudnnK), input(kCudnnV), input(kCudnnOut),
                                                input(kCudnnDout), input(kCudnnLse), options);
  set_output(c, kCudnnDq, dq);
  set_output(c, kCudnnDk, dk);
  set_output(c, kCudnnDv, dv);
}

std::unique_ptr<Plan> make_plan(cudnnHandle_t handle, const CudnnAttention& c) {
  auto plan = std::make_unique<Plan>();
  fe::graph::Graph& graph = plan->graph;
  graph.set_io_data_type(data_type(c.dtype))
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  if (c.backward) {
    describe_backward(c, graph);
  } else {
    describe_forward(c, graph);
  }
  check(graph.validate(), "validate", c);
  check(graph.build_operation_graph(handle), "build_operation_graph", c);
  check(graph.create_execution_plans({fe::HeurMode_t::A}), "create_execution_plans", c);
  check(graph.check_support(handle), "check_support", c);
  check(graph.build_plans(handle, fe::BuildPlanPolicy_t::HEURISTICS_CHOICE), "build_plans", c);
  check(graph.get_workspace_size(plan->workspace), "get_workspace_size", c);
  return plan;
}

/// Handle and plans of one thread on one device.
class Library {
 public:
  Library() { check(fe::detail::create_handle(&handle_), "cudnnCreate"); }
  ~Library() { fe::detail::destroy_handle(handle_); }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;
  cudnnHandle_t handle() const { return handle_; }

  const Plan& plan(const CudnnAttention& call, cudaStream_t stream) {
    std::unique_ptr<Plan>& plan = plans_[call];
    if (plan == nullptr) {
      cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
      check(cudaStreamIsCapturing(stream, &capture), "cudaStreamIsCapturing");
      MEGATRON_CHECK(capture == cudaStreamCaptureStatusNone, "run once before capturing: " + describe(call));
      plan = make_plan(handle_, call);
    }
    return *plan;
  }

 private:
  cudnnHandle_t handle_ = nullptr;
  std::map<CudnnAttention, std::unique_ptr<Plan>> plans_;
};

Library& library() {
  thread_local std::map<int, Library> libraries;
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  return libraries[device];
}

}  // namespace

const std::string& cudnn_problem() {
  static const std::string problem = open_library();
  return problem;
}

void run_cudnn_attention(const CudnnAttention& call, const CudnnPointers& pointers, void* workspace,
                         int64_t workspace_bytes, void* stream) {
  Library& cudnn = library();
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const Plan& plan = cudnn.plan(call, cuda_stream);
  MEGATRON_CHECK(plan.workspace <= workspace_bytes, str_cat("cuDNN wants ", plan.workspace, " bytes of workspace, ",
                                                            workspace_bytes, " are there: ", describe(call)));
  check(fe::detail::set_stream(cudnn.handle(), cuda_stream), "cudnnSetStream");
  std::unordered_map<int64_t, void*> pack;
  for (int i = 0; i < kCudnnTensors; ++i) {
    if (pointers[static_cast<size_t>(i)] != nullptr) pack.emplace(i + 1, pointers[static_cast<size_t>(i)]);
  }
  check(plan.graph.execute(cudnn.handle(), pack, workspace), "execute", call);
}

#else

const std::string& cudnn_problem() {
  static const std::string problem = "this program was built without the headers of cuDNN and its front end";
  return problem;
}

void run_cudnn_attention(const CudnnAttention& call, const CudnnPointers&, void*, int64_t, void*) {
  throw DeviceError(str_cat(cudnn_problem(), ": ", describe(call)));
}

#endif

namespace {

/// All parts, one after the other in the same workspace.
void run_parts(const AttentionChoice& choice, const std::array<const Tensor*, kCudnnTensors>& tensors, void* workspace,
               void* stream) {
  const CudnnAttention& call = choice.call;
  for (int64_t b = 0; b < choice.batch_parts; ++b) {
    for (int64_t g = 0; g < choice.group_parts; ++g) {
      CudnnPointers pointers{};
      for (size_t i = 0; i < kCudnnTensors; ++i) {
        if (tensors[i] == nullptr || tensors[i]->data == nullptr) continue;
        const bool of_group = i == kCudnnK || i == kCudnnV || i == kCudnnDk || i == kCudnnDv;
        const int64_t offset =
            b * call.batch * call.strides[i].b + g * (of_group ? call.groups : call.heads) * call.strides[i].h;
        pointers[i] = static_cast<char*>(tensors[i]->data) + offset * size_of(tensors[i]->dtype);
      }
      run_cudnn_attention(call, pointers, workspace, choice.workspace, stream);
    }
  }
}

}  // namespace

void attention_cudnn(const AttentionChoice& choice, const AttentionArgs& a, void* workspace, void* stream) {
  run_parts(choice, {&a.q, &a.k, &a.v, &a.out, &a.lse}, workspace, stream);
}

void attention_backward_cudnn(const AttentionChoice& choice, const AttentionBackwardArgs& args, void* workspace,
                              void* stream) {
  const AttentionArgs& a = args.forward;
  run_parts(choice, {&a.q, &a.k, &a.v, &a.out, &a.lse, &args.dout, &args.dq, &args.dk, &args.dv}, workspace, stream);
}

}  // namespace megatron
