#include "kernels/attention/attention_choice.h"

#include <algorithm>
#include <optional>
#include <utility>
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
  if (d > 256 || e > 256) return str_cat("head size ", std::max(d, e), " exceeds 256");
  if (o.dropout > 0) return "dropout keyed by sample and position";
  if (a.starts.shape.rank() > 0) return "documents start within the sequence";
  if (a.last_key.shape.rank() > 0) return "keys in a cache";
  if (q.numel() == 0 || k.numel() == 0 || a.v.numel() == 0) return "nothing to do";
  if (q[0] < 2 || k[0] < 2) return "one query or one key";
  if (o.parts.ranks > 1) return "part of a sequence";
  if (q[0] != a.sizes.queries || k[0] != a.sizes.keys) return "sharded sequence";
  const bool bounded = o.causal || o.window_left >= 0 || o.window_right >= 0;
  if (bounded && q[0] != k[0]) return "more or fewer keys than queries";
  return "";
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
  const CudnnStrides dense{call.heads * call.queries, call.queries, 1};
  if (call.statistics && call.strides[kCudnnLse] != dense) return "statistics in another layout";
  return "";
}

/// At most `most`, but 1 at least.
int64_t largest_divisor(int64_t n, int64_t most) {
  int64_t divisor = std::clamp<int64_t>(most, 1, n);
  while (n % divisor != 0) --divisor;
  return divisor;
}

/// Cuts the call into equal parts of at most `limit` bytes where that is possible.
void cut(int64_t limit, AttentionChoice& choice) {
  CudnnAttention& call = choice.call;
  const int64_t batch = call.batch, groups = call.groups, heads_per_group = call.heads / call.groups;
  const auto resize = [&](int64_t new_batch, int64_t new_groups) {
    call.batch = new_batch;
    call.groups = new_groups;
    call.heads = new_groups * heads_per_group;
    choice.workspace = cudnn_workspace(call);
  };
  resize(1, groups);
  if (choice.workspace <= limit) {
    resize(largest_divisor(batch, limit / choice.workspace), groups);
  } else {
    resize(1, 1);
    resize(1, largest_divisor(groups, limit / choice.workspace));
  }
  choice.batch_parts = batch / call.batch;
  choice.group_parts = groups / call.groups;
  if (choice.workspace > kCudnnMostBytes) {
    choice.reason =
        str_cat("cuDNN needs ", format_bytes(static_cast<double>(choice.workspace)), " for a group of heads");
  }
}

/// Room for the statistics of late queries, behind what cuDNN takes.
void add_statistics(const AttentionArgs& whole, AttentionChoice& choice) {
  if (!choice.cudnn || !choice.part || !choice.part->late_queries) return;
  choice.statistics_offset = round_up(choice.workspace, Device::kAlignment);
  choice.workspace = choice.statistics_offset + late_statistics(whole, nullptr).bytes();
}

/// The last word: whether there is a cuDNN.
AttentionChoice decide(const AttentionOptions& options, AttentionChoice choice) {
  if (choice.reason.empty()) choice.reason = cudnn_problem();
  choice.cudnn = choice.reason.empty();
  if (!choice.cudnn) choice.workspace = 0;
  MEGATRON_CHECK(choice.cudnn || options.implementation != AttentionImplementation::kCudnn,
                 "cuDNN attention was asked for: " + choice.reason);
  return choice;
}

}  // namespace

std::optional<VisiblePart> visible_part(const AttentionArgs& a) {
  const AttentionOptions& o = a.options;
  if (o.parts.ranks == 1 || o.window_left >= 0 || o.window_right >= 0 || o.dropout > 0) return std::nullopt;
  if (a.starts.shape.rank() > 0) return std::nullopt;
  if (!o.causal) return VisiblePart{};
  return VisiblePart{o.parts.keys > o.parts.queries, o.parts.keys < o.parts.queries};
}

Tensor rows_of_part(Tensor t, int64_t begin, int64_t end) {
  if (t.shape.rank() == 0) return t;
  if (t.data != nullptr) t.data = static_cast<std::byte*>(t.data) + begin * t.strides[0] * size_of(t.dtype);
  t.shape[0] = end - begin;
  return t;
}

Tensor late_statistics(const AttentionArgs& a, void* memory) {
  const Dims& q = a.q.shape;
  const int64_t half = q[0] / 2;
  const Dims strides = {1, q[2] * q[3] * half, q[3] * half, half};
  return {memory, accumulation_dtype(a.q.dtype), {half, q[1], q[2], q[3]}, strides};
}

AttentionArgs cut_part(AttentionArgs a, const VisiblePart& part, const Tensor& lse) {
  const int64_t queries = a.q.shape[0], keys = a.k.shape[0];
  if (part.late_queries) {
    a.q = rows_of_part(a.q, queries / 2, queries);
    a.out = rows_of_part(a.out, queries / 2, queries);
    if (a.lse.shape.rank() > 0) a.lse = lse;
  }
  if (part.early_keys) {
    a.k = rows_of_part(a.k, 0, keys / 2);
    a.v = rows_of_part(a.v, 0, keys / 2);
  }
  if (part.late_queries || part.early_keys) a.options.causal = false;
  a.options.parts = {};
  a.query_places = a.key_places = {};
  a.sizes = {a.q.shape[0], a.k.shape[0], a.sizes.heads_per_group};
  return a;
}

AttentionBackwardArgs cut_part(AttentionBackwardArgs args, const VisiblePart& part, const Tensor& lse) {
  const int64_t queries = args.forward.q.shape[0], keys = args.forward.k.shape[0];
  args.forward = cut_part(args.forward, part, lse);
  if (part.late_queries) {
    args.dout = rows_of_part(args.dout, queries / 2, queries);
    args.dq = rows_of_part(args.dq, queries / 2, queries);
  }
  if (part.early_keys) {
    args.dk = rows_of_part(args.dk, 0, keys / 2);
    args.dv = rows_of_part(args.dv, 0, keys / 2);
  }
  return args;
}

int64_t cudnn_workspace(const CudnnAttention& c) {
  constexpr int64_t kKernels = 4096;
  if (!c.backward) return kKernels;
  const int64_t heads = c.batch * c.heads, rows = heads * c.queries;
  int64_t bytes = kKernels + rows * 4;  // sums of dout * out
  if (c.deterministic) {
    bytes += heads * round_up(c.queries, 64) * round_up(c.keys, 128) * 2;  // gradients of the scores
  } else {
    bytes += rows * c.d * 4;  // dq in fp32
  }
  if (c.groups != c.heads) bytes += heads * c.keys * (c.d + c.e) * 2;  // dk and dv of every query head
  return bytes;
}

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

AttentionChoice choose_attention(const AttentionArgs& whole) {
  AttentionChoice choice;
  choice.part = visible_part(whole);
  const AttentionArgs a = choice.part ? cut_part(whole, *choice.part, late_statistics(whole, nullptr)) : whole;
  choice.call.statistics = a.lse.shape.rank() > 0;
  std::vector<Listed> tensors = {{kCudnnQ, &a.q}, {kCudnnK, &a.k}, {kCudnnV, &a.v}, {kCudnnOut, &a.out}};
  if (choice.call.statistics) tensors.push_back({kCudnnLse, &a.lse});
  choice.reason = refuse(a);
  if (choice.reason.empty() && a.out.shape.rank() == 0) choice.reason = "only the statistics are wanted";
  if (choice.reason.empty()) choice.reason = refuse_rows(tensors);
  if (choice.reason.empty()) choice.reason = make_call(a, tensors, choice.call);
  if (choice.reason.empty()) choice.workspace = cudnn_workspace(choice.call);
  choice = decide(a.options, std::move(choice));
  add_statistics(whole, choice);
  return choice;
}

AttentionChoice choose_attention(const AttentionBackwardArgs& whole) {
  AttentionChoice choice;
  choice.part = visible_part(whole.forward);
  const Tensor statistics = late_statistics(whole.forward, nullptr);
  const AttentionBackwardArgs args = choice.part ? cut_part(whole, *choice.part, statistics) : whole;
  const AttentionArgs& a = args.forward;
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
  if (choice.reason.empty()) cut(a.options.workspace_limit, choice);
  choice = decide(a.options, std::move(choice));
  add_statistics(whole.forward, choice);
  return choice;
}

}  // namespace megatron
