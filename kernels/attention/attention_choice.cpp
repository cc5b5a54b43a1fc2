#include "kernels/attention/attention_choice.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "base/check.h"
#include "base/strings.h"
#include "kernels/attention/attention_cudnn.h"

namespace megatron {
namespace {

constexpr int64_t kVector = 8;  ///< elements of 16 bytes, in which cuDNN walks rows

/// The stride of dimensions `outer` and outer + 1 taken as one.
std::optional<int64_t> joined(const Tensor& t, int outer) {
  const bool dense = t.strides[outer] == t.shape[outer + 1] * t.strides[outer + 1];
  if (t.shape[outer] == 1 || (dense && t.shape[outer + 1] > 1)) return t.strides[outer + 1];
  if (t.shape[outer + 1] == 1) return t.strides[outer];
  return std::nullopt;
}

/// cuDNN has one dimension for heads. Queries of interleaved projections have two, groups and heads of a group; there,
/// groups go with the samples.
enum class Join { kHeads, kSamples };

/// Of [s, b, g, h, (d)], or of [s, b, g, d] where `by_group`.
std::optional<CudnnStrides> strides_of(const Tensor& t, bool by_group, Join join) {
  CudnnStrides strides{t.strides[1], by_group ? t.strides[2] : t.strides[3], t.strides[0]};
  if (join == Join::kSamples) {
    const std::optional<int64_t> b = joined(t, 1);
    if (!b) return std::nullopt;
    strides.b = *b;
  } else if (!by_group) {
    const std::optional<int64_t> h = joined(t, 2);
    if (!h) return std::nullopt;
    strides.h = *h;
  }
  return strides;
}

struct Listed {
  CudnnTensor place;
  const Tensor* tensor;
};

bool by_group(CudnnTensor place) {
  return place == kCudnnK || place == kCudnnV || place == kCudnnDk || place == kCudnnDv;
}

bool set_strides(const std::vector<Listed>& tensors, Join join, CudnnAttention& call) {
  for (const Listed& listed : tensors) {
    const std::optional<CudnnStrides> strides = strides_of(*listed.tensor, by_group(listed.place), join);
    if (!strides) return false;
    call.strides[listed.place] = *strides;
  }
  return true;
}

/// Rows that start at multiples of 16 bytes, element next to element.
bool has_vector_rows(const Tensor& t) {
  if (t.shape.back() > 1 && t.strides.back() != 1) return false;
  for (int i = 0; i + 1 < t.shape.rank(); ++i) {
    if (t.shape[i] > 1 && t.strides[i] % kVector != 0) return false;
  }
  return reinterpret_cast<uintptr_t>(t.data) % (kVector * static_cast<size_t>(size_of(t.dtype))) == 0;
}

/// Why cuDNN does not take what both directions share, or "".
std::string refuse(const AttentionArgs& a) {
  const AttentionOptions& o = a.options;
  const Dims &q = a.q.shape, &k = a.k.shape;
  const int64_t d = q.back(), e = a.v.shape.back();
  if (o.implementation == AttentionImplementation::kOwn) return "asked for";
  if (a.q.dtype != DType::kBF16 && a.q.dtype != DType::kF16) return str_cat("type ", name_of(a.q.dtype));
  if (d % kVector != 0 || e % kVector != 0) return str_cat("head size ", d % kVector != 0 ? d : e, " is odd");
  if (d > 128 || e > 128) return str_cat("head size ", std::max(d, e), " exceeds 128");
  if (o.dropout > 0) return "dropout keyed by sample and position";
  if (a.starts.shape.rank() > 0) return "documents start within the sequence";
  if (a.last_key.shape.rank() > 0) return "keys in a cache";
  if (q.numel() == 0 || k.numel() == 0 || a.v.numel() == 0) return "nothing to do";
  if (q[0] != a.sizes.queries || k[0] != a.sizes.keys) return "sharded sequence";
  const bool bounded = o.causal || o.window_left >= 0 || o.window_right >= 0;
  if (bounded && q[0] != k[0]) return "more or fewer keys than queries";
  return cudnn_problem();
}

std::string refuse_rows(const std::vector<Listed>& tensors) {
  for (const Listed& listed : tensors) {
    if (listed.place != kCudnnLse && !has_vector_rows(*listed.tensor)) return "rows not at multiples of 16 bytes";
  }
  return "";
}

/// The whole as one call, or the reason why there is none.
std::string make_call(const AttentionArgs& a, const std::vector<Listed>& tensors, CudnnAttention& call) {
  const AttentionOptions& o = a.options;
  const Dims& q = a.q.shape;
  call.dtype = a.q.dtype;
  call.queries = q[0];
  call.keys = a.k.shape[0];
  call.d = q[4];
  call.e = a.v.shape[3];
  call.left = o.window_left;
  call.right = o.causal ? 0 : o.window_right;
  call.scale = o.softmax_scale;
  if (set_strides(tensors, Join::kHeads, call)) {
    call.batch = q[1];
    call.groups = q[2];
  } else if (set_strides(tensors, Join::kSamples, call)) {
    call.batch = q[1] * q[2];
    call.groups = 1;
  } else {
    return "strides of neither heads nor samples";
  }
  call.heads = call.groups * q[3];
  return "";
}

void require_if_asked(const AttentionOptions& options, const AttentionChoice& choice) {
  MEGATRON_CHECK(choice.cudnn || options.implementation != AttentionImplementation::kCudnn,
                 "cuDNN attention was asked for: " + choice.reason);
}

/// Bytes that a plan of cuDNN may want (9.19 on Hopper; checked when the plan is made).
int64_t workspace_of(const CudnnAttention& c) {
  constexpr int64_t kSpare = int64_t{1} << 16;
  const int64_t rows = c.batch * c.heads * round_up(c.queries, 128);
  if (!c.backward) return kSpare;
  const int64_t sums = rows * 4;                                            // of dout * out
  const int64_t wide = c.deterministic ? 0 : rows * round_up(c.d, 64) * 4;  // dq in fp32
  const int64_t scores = c.deterministic ? rows * round_up(c.keys, 128) * 2 : 0;
  const bool grouped = c.groups != c.heads;  // dk and dv of every query head
  const int64_t heads = grouped ? c.batch * c.heads * round_up(c.keys, 128) * (c.d + c.e) * 2 : 0;
  return sums + wide + scores + heads + kSpare;
}

int64_t largest_divisor(int64_t n, int64_t most) {
  int64_t divisor = std::clamp<int64_t>(most, 1, n);
  while (n % divisor != 0) --divisor;
  return divisor;
}

/// Cuts the call into equal parts of at most kCudnnPartBytes where that is possible.
void cut(AttentionChoice& choice) {
  CudnnAttention& call = choice.call;
  const int64_t heads_per_group = call.heads / call.groups;
  const auto resize = [&](int64_t batch, int64_t groups) {
    call.batch = batch;
    call.groups = groups;
    call.heads = groups * heads_per_group;
    choice.workspace = workspace_of(call);
  };
  const int64_t batch = call.batch, groups = call.groups;
  resize(1, groups);
  if (choice.workspace <= kCudnnPartBytes) {
    resize(largest_divisor(batch, kCudnnPartBytes / choice.workspace), groups);
  } else {
    resize(1, 1);
    resize(1, largest_divisor(groups, kCudnnPartBytes / choice.workspace));
  }
  choice.batch_parts = batch / call.batch;
  choice.group_parts = groups / call.groups;
}

}  // namespace

std::string describe(const CudnnAttention& c) {
  return str_cat(
      c.backward ? (c.deterministic ? "deterministic attention_backward" : "attention_backward") : "attention", " ",
      name_of(c.dtype), " batch ", c.batch, ", heads ", c.heads, ", key heads ", c.groups, ", queries ", c.queries,
      ", keys ", c.keys, ", head sizes ", c.d, " and ", c.e, ", window (", c.left, ", ", c.right, ")");
}

std::string describe(const AttentionChoice& choice) {
  if (!choice.cudnn) return "own kernel: " + choice.reason;
  const int64_t parts = choice.batch_parts * choice.group_parts;
  return parts == 1 ? "cuDNN" : str_cat("cuDNN in ", parts, " parts");
}

AttentionChoice choose_attention(const AttentionArgs& a) {
  AttentionChoice choice;
  choice.call.statistics = a.lse.shape.rank() > 0;
  std::vector<Listed> tensors = {{kCudnnQ, &a.q}, {kCudnnK, &a.k}, {kCudnnV, &a.v}, {kCudnnOut, &a.out}};
  if (choice.call.statistics) tensors.push_back({kCudnnLse, &a.lse});
  choice.reason = refuse(a);
  if (choice.reason.empty() && a.out.shape.rank() == 0) choice.reason = "only the statistics are wanted";
  if (choice.reason.empty()) choice.reason = refuse_rows(tensors);
  if (choice.reason.empty()) choice.reason = make_call(a, tensors, choice.call);
  choice.cudnn = choice.reason.empty();
  if (choice.cudnn) choice.workspace = workspace_of(choice.call);
  require_if_asked(a.options, choice);
  return choice;
}

AttentionChoice choose_attention(const AttentionBackwardArgs& args) {
  const AttentionArgs& a = args.forward;
  AttentionChoice choice;
  choice.call.backward = true;
  choice.call.deterministic = a.options.deterministic;
  const std::vector<Listed> tensors = {{kCudnnQ, &a.q},      {kCudnnK, &a.k},      {kCudnnV, &a.v},
                                       {kCudnnOut, &a.out},  {kCudnnLse, &a.lse},  {kCudnnDout, &args.dout},
                                       {kCudnnDq, &args.dq}, {kCudnnDk, &args.dk}, {kCudnnDv, &args.dv}};
  choice.reason = refuse(a);
  if (choice.reason.empty() && (args.dq.shape.rank() == 0 || args.dk.shape.rank() == 0 || args.dv.shape.rank() == 0)) {
    choice.reason = "a gradient is not wanted";
  }
  if (choice.reason.empty()) choice.reason = refuse_rows(tensors);
  if (choice.reason.empty()) choice.reason = make_call(a, tensors, choice.call);
  if (choice.reason.empty() && a.options.deterministic) {
    cut(choice);
    if (choice.workspace > kCudnnMostBytes) {
      choice.reason = str_cat("deterministic, for which cuDNN needs ",
                              format_bytes(static_cast<double>(choice.workspace)), " a group of heads");
    }
  } else if (choice.reason.empty()) {
    choice.workspace = workspace_of(choice.call);
  }
  choice.cudnn = choice.reason.empty();
  if (!choice.cudnn) choice.workspace = 0;
  require_if_asked(a.options, choice);
  return choice;
}

}  // namespace megatron
