// Which kernels run attention on a GPU: reasons, strides, workspaces and parts. Needs neither a GPU nor cuDNN.
#include <cmath>
#include <string>

#include "kernels/attention/attention_choice.h"
#include "kernels/attention/attention_cudnn.h"
#include "tests/catch.h"

namespace megatron {
namespace {

struct Sizes {
  int64_t s = 64, b = 2, g = 2, q = 3, d = 64;
};

Tensor dense(const Dims& shape, DType dtype = DType::kBF16) {
  return make_tensor(nullptr, dtype, shape);
}

/// [b, g, q, s] seen as [s, b, g, q].
Tensor statistics(const Sizes& n) {
  Tensor t = dense({n.s, n.b, n.g, n.q}, DType::kF32);
  t.strides = {1, n.g * n.q * n.s, n.q * n.s, n.s};
  return t;
}

AttentionBackwardArgs make_args(const Sizes& n) {
  AttentionBackwardArgs args;
  AttentionArgs& f = args.forward;
  const Dims queries{n.s, n.b, n.g, n.q, n.d}, keys{n.s, n.b, n.g, n.d};
  f.sizes = {n.s, n.s, n.q};
  f.q = f.out = args.dout = args.dq = dense(queries);
  f.k = f.v = args.dk = args.dv = dense(keys);
  f.lse = statistics(n);
  return args;
}

/// q, k, v and their gradients are views of projections interleaved by group.
AttentionBackwardArgs make_fused(const Sizes& n) {
  AttentionBackwardArgs args = make_args(n);
  const int64_t group = (n.q + 2) * n.d, row = n.g * group;
  args.forward.q.strides = args.dq.strides = {n.b * row, row, group, n.d, 1};
  for (Tensor* t : {&args.forward.k, &args.forward.v, &args.dk, &args.dv}) t->strides = {n.b * row, row, group, 1};
  return args;
}

/// The reason, "" where only cuDNN itself may be missing.
std::string reason(const AttentionArgs& args) {
  const AttentionChoice choice = choose_attention(args);
  REQUIRE(choice.cudnn == choice.reason.empty());
  return choice.reason == cudnn_problem() ? "" : choice.reason;
}

}  // namespace

TEST_CASE("cuDNN is left where it would not take the case", "[attention]") {
  const Sizes n;
  const auto reason_of = [](const Sizes& sizes, auto&& change) {
    AttentionArgs args = make_args(sizes).forward;
    change(args);
    return reason(args);
  };
  REQUIRE(reason_of(n, [](AttentionArgs&) {}) == "");
  REQUIRE(reason_of(n, [](AttentionArgs& a) { a.q.dtype = DType::kF32; }) == "type fp32");
  REQUIRE(reason_of({.d = 37}, [](AttentionArgs&) {}) == "head size 37 is odd");
  REQUIRE(reason_of({.d = 264}, [](AttentionArgs&) {}) == "head size 264 exceeds 256");
  REQUIRE(reason_of({.s = 1}, [](AttentionArgs&) {}) == "one query or one key");
  REQUIRE(reason_of({.b = 0}, [](AttentionArgs&) {}) == "nothing to do");
  REQUIRE(reason_of(n, [](AttentionArgs& a) { a.options.dropout = 0.1; }) == "dropout keyed by sample and position");
  REQUIRE(reason_of(n, [](AttentionArgs& a) { a.sizes.queries *= 2; }) == "sharded sequence");
  REQUIRE(reason_of(n, [](AttentionArgs& a) {
            a.starts = dense({64, 2}, DType::kI32);
          }) == "documents start within the sequence");
  REQUIRE(reason_of(n, [](AttentionArgs& a) { a.last_key = dense({64, 2}, DType::kI32); }) == "keys in a cache");
  REQUIRE(reason_of(n, [](AttentionArgs& a) { a.q.strides[0] += 4; }) == "rows not at multiples of 16 bytes");
  REQUIRE(reason_of(n, [](AttentionArgs& a) { a.options.implementation = AttentionImplementation::kOwn; }) ==
          "asked for");
  AttentionBackwardArgs backward = make_args(n);
  backward.dk = {};
  REQUIRE(choose_attention(backward).reason == "a gradient is not wanted");
}

TEST_CASE("cuDNN sees dense and interleaved projections through strides", "[attention]") {
  const Sizes n;
  const CudnnAttention plain = choose_attention(make_args(n)).call;
  REQUIRE((plain.batch == 2 && plain.groups == 2 && plain.heads == 6));
  REQUIRE(plain.strides[kCudnnQ] == CudnnStrides{6 * 64, 64, 2 * 6 * 64});
  REQUIRE(plain.strides[kCudnnK] == CudnnStrides{2 * 64, 64, 2 * 2 * 64});
  REQUIRE(plain.strides[kCudnnLse] == CudnnStrides{6 * 64, 64, 1});
  // Queries of a group lie 64 apart, groups 5 * 64: one stride for all heads does not exist.
  const CudnnAttention fused = choose_attention(make_fused(n)).call;
  REQUIRE((fused.batch == 4 && fused.groups == 1 && fused.heads == 3));
  REQUIRE(fused.strides[kCudnnQ] == CudnnStrides{5 * 64, 64, 2 * 10 * 64});
  REQUIRE(fused.strides[kCudnnDv].b == 5 * 64);
  REQUIRE(fused.strides[kCudnnOut] == CudnnStrides{3 * 64, 64, 2 * 6 * 64});
  REQUIRE(fused.strides[kCudnnLse] == CudnnStrides{3 * 64, 64, 1});
  // Multi-head attention has one head a group: heads have a stride in either layout.
  const CudnnAttention heads = choose_attention(make_fused({.q = 1})).call;
  REQUIRE((heads.batch == 2 && heads.heads == 2 && heads.strides[kCudnnQ].h == 3 * 64));
  AttentionBackwardArgs other = make_args(n);
  other.forward.lse.strides = contiguous_strides(other.forward.lse.shape);
  REQUIRE(choose_attention(other).reason == "statistics in another layout");
  AttentionBackwardArgs neither = make_fused(n);
  neither.forward.q.strides[1] += 64;
  REQUIRE(choose_attention(neither).reason == "strides of neither heads nor samples");
}

TEST_CASE("workspaces are those of cuDNN's plans", "[attention]") {
  struct Measured {
    Sizes n;
    int64_t fast, deterministic;
  };
  // Read from plans on an H100, cuDNN 9.19.
  const Measured measured[] = {
      {{1024, 64, 12, 1, 64}, 204472576, 1613758720}, {{8192, 2, 8, 4, 64}, 270532864, 8726249728},
      {{8192, 1, 8, 4, 128}, 269484288, 4430233856},  {{9, 3, 3, 2, 64}, 83848, 337288},
      {{129, 3, 3, 2, 128}, 2387272, 2967880},        {{256, 2, 2, 2, 136}, 2236672, 2171136}};
  for (const Measured& m : measured) {
    CudnnAttention call;
    call.backward = true;
    call.batch = m.n.b, call.groups = m.n.g, call.heads = m.n.g * m.n.q;
    call.queries = call.keys = m.n.s;
    call.d = call.e = m.n.d;
    for (const bool deterministic : {false, true}) {
      call.deterministic = deterministic;
      const int64_t wanted = deterministic ? m.deterministic : m.fast;
      REQUIRE(cudnn_workspace(call) >= wanted);
      REQUIRE(cudnn_workspace(call) <= wanted + 4096);
    }
  }
}

TEST_CASE("deterministic gradients of cuDNN come in parts that fit the limit", "[attention]") {
  const auto choose = [](const Sizes& n, bool deterministic) {
    AttentionBackwardArgs args = make_args(n);
    args.forward.options.deterministic = deterministic;
    return choose_attention(args);
  };
  const AttentionChoice whole = choose({1024, 64, 12, 1, 64}, true);
  REQUIRE((whole.batch_parts == 1 && whole.group_parts == 1 && whole.call.batch == 64));
  const AttentionChoice by_sample = choose({4096, 8, 8, 4, 128}, true);
  REQUIRE((by_sample.batch_parts == 4 && by_sample.group_parts == 1 && by_sample.call.batch == 2));
  REQUIRE(cudnn_workspace(by_sample.call) <= AttentionOptions().workspace_limit);
  const AttentionChoice by_group = choose({8192, 2, 8, 4, 64}, true);
  REQUIRE((by_group.batch_parts == 2 && by_group.group_parts == 2 && by_group.call.heads == 16));
  REQUIRE(choose({8192, 2, 8, 4, 64}, false).batch_parts == 1);
  const AttentionChoice too_long = choose({32768, 1, 8, 4, 128}, true);
  REQUIRE(!too_long.cudnn);
  REQUIRE(too_long.reason == "cuDNN needs 8.06 GiB for a group of heads");
}

}  // namespace megatron
