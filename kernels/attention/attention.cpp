// Declarations of attention and of its gradient.
#include "kernels/attention/attention.h"

#include <algorithm>

#include <map>

#include "base/check.h"
#include "base/strings.h"
#include "kernels/attention/attention_choice.h"
#include "kernels/attention/attention_cudnn.h"
#include "program/plan.h"
#ifdef MEGATRON_HAVE_CUDA
#include "program/elementwise_cuda.h"
#endif

namespace megatron {
namespace {

enum Operand { kQ, kK, kV, kStarts, kStep, kSample, kPosition };
enum BackwardOperand { kBackOut = 3, kBackLse, kBackDout, kBackStarts, kBackStep, kBackSample, kBackPosition };

std::string describe(const AttentionOptions& o, const AttentionSizes& sizes) {
  std::string text = str_cat("scale=", o.softmax_scale, o.causal ? " causal" : "");
  if (o.window_left >= 0 || o.window_right >= 0) text += str_cat(" window=(", o.window_left, ",", o.window_right, ")");
  if (o.dropout > 0) text += str_cat(" dropout=", o.dropout, " seed=", o.seed, " name=", o.name);
  if (!o.deterministic) text += " not deterministic";
  if (o.implementation == AttentionImplementation::kOwn) text += " own kernel";
  if (o.implementation == AttentionImplementation::kCudnn) text += " cuDNN";
  if (o.parts.ranks > 1) {
    text += str_cat(" part ", o.parts.queries, " on ", o.parts.keys, " of ", o.parts.ranks);
  }
  return text + str_cat(" queries=", sizes.queries, " keys=", sizes.keys);
}

void check_dtypes(const Operands& operands, std::initializer_list<int> same) {
  for (int i : same) {
    const ValueInfo* v = operands[static_cast<size_t>(i)];
    if (v != nullptr && v->dtype != operands[0]->dtype) {
      throw PlacementError{str_cat("operand ", i, " is ", name_of(v->dtype), " but q is ", name_of(operands[0]->dtype)),
                           "cast it"};
    }
  }
}

void check_sizes(const Operands& operands, const AttentionSizes& sizes) {
  const Dims &q = operands[0]->shape, &k = operands[1]->shape;
  if (q.rank() != 5 || k.rank() != 4) throw PlacementError{"q has 5 and k has 4 dimensions", "reshape the operands"};
  if (q[0] != sizes.queries || q[3] != sizes.heads_per_group || k[0] != sizes.keys) {
    throw PlacementError{
        str_cat("q is ", to_string(q), ", k is ", to_string(k), ", but the kind was made for ", sizes.queries,
                " queries, ", sizes.keys, " keys and ", sizes.heads_per_group, " heads a group"),
        "make the kind for these shapes"};
  }
}

void check_dropout(const Operands& operands, const AttentionOptions& options, int step, int sample, int position) {
  if (options.dropout <= 0) return;
  for (int i : {step, sample, position}) {
    if (operands[static_cast<size_t>(i)] == nullptr) {
      throw PlacementError{"dropout needs step, sample and position", "give all three"};
    }
  }
}

/// Queries and keys are parts of a sequence, each rank with its own.
bool pairs_parts(const AttentionOptions& options, const AttentionSizes& sizes) {
  return options.parts.ranks > 1 && sizes.queries == sizes.keys;
}

/// [b, g, q, s] seen as [s, b, g, q].
Tensor sequence_first(const Tensor& lse) {
  Tensor t = lse;
  if (t.shape.rank() != 4) return t;  // unread
  t.shape = {lse.shape[3], lse.shape[0], lse.shape[1], lse.shape[2]};
  t.strides = {lse.strides[3], lse.strides[0], lse.strides[1], lse.strides[2]};
  return t;
}

class AttentionBase : public OpKind {
 public:
  AttentionBase(AttentionOptions options, const AttentionSizes& sizes) : options_(std::move(options)), sizes_(sizes) {
    MEGATRON_CHECK(options_.dropout >= 0 && options_.dropout < 1, "dropout is in [0, 1)");
  }
  std::string attributes() const override { return describe(options_, sizes_); }
  /// "attention.64.dropout": what decides between kernels besides the sizes.
  std::string speed_class(const RunContext& c) const override {
    return str_cat(name(), '.', c.in(kQ).shape.back(), options_.dropout > 0 ? ".dropout" : "",
                   options_.causal ? "" : ".full", options_.deterministic ? "" : ".any_order");
  }
  virtual AttentionChoice choice(const RunContext& shapes) const = 0;

 protected:
  AttentionArgs base_args(const RunContext& c, int starts) const {
    AttentionArgs args;
    args.options = options_;
    args.sizes = sizes_;
    args.q = c.in(kQ);
    args.k = c.in(kK);
    args.v = c.in(kV);
    args.starts = c.in(starts);
    args.step = c.in(starts + 1);
    args.sample = c.in(starts + 2);
    args.position = c.in(starts + 3);
    int64_t first_query = sizes_.keys - sizes_.queries;
    if (!c.operand_origins.empty()) {
      const Dims& origin = c.in_origin(kQ);
      first_query += origin[0];
      args.first_group = options_.first_group >= 0 ? options_.first_group : origin[2];
      args.first_head = origin[3];
    }
    args.query_places.low = args.query_places.high = first_query;
    const SequenceParts& parts = options_.parts;
    if (parts.ranks > 1) {
      args.query_places = zigzag_places(c.in(kQ).shape[0], parts.queries, parts.ranks);
      args.key_places = zigzag_places(c.in(kK).shape[0], parts.keys, parts.ranks);
    }
    return args;
  }

  AttentionOptions options_;
  AttentionSizes sizes_;
};

class Attention final : public AttentionBase {
 public:
  using AttentionBase::AttentionBase;
  std::string name() const override { return "attention"; }
  Signature signature(const Operands& operands) const override {
    check_dtypes(operands, {kK, kV});
    check_sizes(operands, sizes_);
    check_dropout(operands, options_, kStep, kSample, kPosition);
    const char* text =
        pairs_parts(options_, sizes_) ? "sbgqd,sbgd,sbge,sb,,b,sb->sbgqe,bgqs" : "sbgqd,tbgd,tbge,sb,,b,sb->sbgqe,bgqs";
    Signature s = parse_signature(text, operands[kQ]->dtype);
    s.results[1].dtype = accumulation_dtype(operands[kQ]->dtype);
    s.whole = pairs_parts(options_, sizes_) ? "de" : "tde";
    return s;
  }
  bool takes_strided(int i) const override { return i <= kV; }
  void backward(BackwardContext& c) const override {
    MEGATRON_CHECK(!c.gradient(1), "the log-sum-exp of attention has no gradient");
    const Value dout = c.gradient(0);
    if (!dout || !(c.wants(kQ) || c.wants(kK) || c.wants(kV))) return;
    const std::vector<Value> g =
        c.trace().emit(attention_backward_kind(options_, sizes_),
                       {c.operand(kQ), c.operand(kK), c.operand(kV), c.result(0), c.result(1), dout, c.operand(kStarts),
                        c.operand(kStep), c.operand(kSample), c.operand(kPosition)});
    for (int i = 0; i < 3; ++i) c.set(i, g[static_cast<size_t>(i)]);
  }
  Cost cost(const RunContext& c) const override {
    Cost cost = OpKind::cost(c);
    cost.flops = attention_flops(base_args(c, kStarts));
    return cost;
  }
  int64_t workspace(const RunContext& c, DeviceKind device) const override {
    return device == DeviceKind::kCpu ? attention_workspace_cpu(args(c)) : attention_workspace_cuda(args(c));
  }
  AttentionChoice choice(const RunContext& shapes) const override { return choose_attention(args(shapes)); }
  void run_cpu(const RunContext& c) const override { attention_cpu(args(c), c.workspace, c.pool); }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    attention_cuda(args(c), c.workspace, c.stream);
  }
#endif

 private:
  AttentionArgs args(const RunContext& c) const {
    AttentionArgs args = base_args(c, kStarts);
    args.out = c.out(0);
    args.lse = sequence_first(c.out(1));
    return args;
  }
};

class AttentionBackward final : public AttentionBase {
 public:
  using AttentionBase::AttentionBase;
  std::string name() const override { return "attention_backward"; }
  Signature signature(const Operands& operands) const override {
    check_dtypes(operands, {kK, kV, kBackOut, kBackDout});
    check_sizes(operands, sizes_);
    check_dropout(operands, options_, kBackStep, kBackSample, kBackPosition);
    const char* text = pairs_parts(options_, sizes_) ? "sbgqd,sbgd,sbge,sbgqe,bgqs,sbgqe,sb,,b,sb->sbgqd,sbgd,sbge"
                                                     : "sbgqd,tbgd,tbge,sbgqe,bgqs,sbgqe,sb,,b,sb->sbgqd,tbgd,tbge";
    Signature s = parse_signature(text, operands[kQ]->dtype);
    s.whole = pairs_parts(options_, sizes_) ? "de" : "tde";
    s.linear = {{kBackDout}};
    return s;
  }
  bool takes_strided(int i) const override { return i <= kBackOut || i == kBackDout; }
  bool gives_strided(int) const override { return true; }
  Cost cost(const RunContext& c) const override {
    Cost cost = OpKind::cost(c);
    cost.flops = 2.5 * attention_flops(base_args(c, kBackStarts));  // five products of blocks instead of two
    return cost;
  }
  int64_t workspace(const RunContext& c, DeviceKind device) const override {
    return device == DeviceKind::kCpu ? attention_backward_workspace_cpu(args(c))
                                      : attention_backward_workspace_cuda(args(c));
  }
  AttentionChoice choice(const RunContext& shapes) const override { return choose_attention(args(shapes)); }
  void run_cpu(const RunContext& c) const override { attention_backward_cpu(args(c), c.workspace, c.pool); }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    attention_backward_cuda(args(c), c.workspace, c.stream);
  }
#endif

 private:
  AttentionBackwardArgs args(const RunContext& c) const {
    AttentionBackwardArgs args;
    args.forward = base_args(c, kBackStarts);
    args.forward.out = c.in(kBackOut);
    args.forward.lse = sequence_first(c.in(kBackLse));
    args.dout = c.in(kBackDout);
    args.dq = c.out(0);
    args.dk = c.out(1);
    args.dv = c.out(2);
    return args;
  }
};

}  // namespace

std::shared_ptr<const OpKind> attention_kind(const AttentionOptions& options, const AttentionSizes& sizes) {
  return std::make_shared<Attention>(options, sizes);
}

std::shared_ptr<const OpKind> attention_backward_kind(const AttentionOptions& options, const AttentionSizes& sizes) {
  return std::make_shared<AttentionBackward>(options, sizes);
}

AttentionResult attention(Trace& trace, Value q, Value k, Value v, const AttentionOptions& options,
                          const AttentionExtras& extras) {
  MEGATRON_CHECK(trace.shape(q).rank() == 5 && trace.shape(k).rank() == 4, "q is [s,b,g,q,d], k is [t,b,g,d]");
  const AttentionSizes sizes{trace.shape(q)[0], trace.shape(k)[0], trace.shape(q)[3]};
  const bool drop = options.dropout > 0;
  const std::vector<Value> results =
      trace.emit(attention_kind(options, sizes), {q, k, v, extras.starts, drop ? extras.step : Value{},
                                                  drop ? extras.sample : Value{}, drop ? extras.position : Value{}});
  return {results[0], results[1]};
}

// Here and not in the .cu files, so that plans for GPUs can be made by a build without CUDA.
int64_t attention_workspace_cuda(const AttentionArgs& args) {
  return choose_attention(args).workspace;
}

int64_t attention_backward_workspace_cuda(const AttentionBackwardArgs& args) {
  const Dims& q = args.forward.q.shape;
  const int64_t own = q[0] * q[1] * q[2] * q[3] * size_of(accumulation_dtype(args.forward.q.dtype));
  return std::max(own, choose_attention(args).workspace);
}

int64_t attention_splits_cuda(const AttentionArgs& args) {
  constexpr int64_t kRows = 32, kLeastKeys = 128, kBlocks = 396;  // the last: what an H100 holds at once
  const Dims& q = args.q.shape;
  const int64_t rows = q[0] * q[3], width = std::max(q[4], args.v.shape[3]);
  const bool fits = args.last_key.shape.rank() > 0 && args.lse.shape.rank() == 0 && size_of(args.q.dtype) == 2 &&
                    rows <= kRows && width <= 128;
  const int64_t blocks = q[1] * q[2] * div_ceil(rows, 16);
  if (!fits || blocks == 0) return 1;
  return std::max<int64_t>(1, std::min(div_ceil(args.k.shape[0], kLeastKeys), kBlocks / blocks));
}

int64_t attention_own_workspace_cuda(const AttentionArgs& args) {
  const int64_t splits = attention_splits_cuda(args);
  if (splits == 1) return 0;
  const Dims& q = args.q.shape;
  return q[0] * q[1] * q[2] * q[3] * splits * (args.v.shape[3] + 2) * static_cast<int64_t>(sizeof(float));
}

#ifdef MEGATRON_HAVE_CUDA
namespace {

/// [s, b, g, q] seen as [b, g, q, s], as the statistics lie.
Tensor queries_last(const Tensor& t) {
  return {t.data,
          t.dtype,
          {t.shape[1], t.shape[2], t.shape[3], t.shape[0]},
          {t.strides[1], t.strides[2], t.strides[3], t.strides[0]}};
}

}  // namespace

void attention_cuda(const AttentionArgs& args, void* workspace, void* stream) {
  const AttentionChoice choice = choose_attention(args);
  if (!choice.cudnn) return attention_own_cuda(args, workspace, stream);
  if (!choice.part) return attention_cudnn(choice, args, workspace, stream);
  const Tensor lse = late_statistics(args, static_cast<std::byte*>(workspace) + choice.statistics_offset);
  attention_cudnn(choice, cut_part(args, *choice.part, lse), workspace, stream);
  if (!choice.part->late_queries) return;
  const int64_t rows = args.q.shape[0];
  zero_strided_cuda(rows_of_part(args.out, 0, rows / 2), stream);
  if (!args.lse) return;
  copy_strided_cuda(queries_last(lse), queries_last(rows_of_part(args.lse, rows / 2, rows)), stream);
  fill_lowest_cuda(rows_of_part(args.lse, 0, rows / 2), stream);
}

void attention_backward_cuda(const AttentionBackwardArgs& args, void* workspace, void* stream) {
  const AttentionChoice choice = choose_attention(args);
  if (!choice.cudnn) return attention_backward_own_cuda(args, workspace, stream);
  if (!choice.part) return attention_backward_cudnn(choice, args, workspace, stream);
  const AttentionArgs& f = args.forward;
  const Tensor lse = late_statistics(f, static_cast<std::byte*>(workspace) + choice.statistics_offset);
  const int64_t rows = f.q.shape[0], keys = f.k.shape[0];
  if (choice.part->late_queries) {
    copy_strided_cuda(queries_last(rows_of_part(f.lse, rows / 2, rows)), queries_last(lse), stream);
    zero_strided_cuda(rows_of_part(args.dq, 0, rows / 2), stream);
  }
  attention_backward_cudnn(choice, cut_part(args, *choice.part, lse), workspace, stream);
  if (choice.part->early_keys) {
    zero_strided_cuda(rows_of_part(args.dk, keys / 2, keys), stream);
    zero_strided_cuda(rows_of_part(args.dv, keys / 2, keys), stream);
  }
}
#endif

std::vector<std::string> attention_decisions(const Program& program) {
  std::map<std::string, int> counts;
  for (int phase = 0; phase < kPhases; ++phase) {
    for (const OpId id : program.list(static_cast<Phase>(phase))) {
      const Op& op = program.op(id);
      const auto* kind = dynamic_cast<const AttentionBase*>(op.kind.get());
      if (kind == nullptr) continue;
      const OpShapes shapes = shapes_of(program, op);
      const Tensor& q = shapes.operands[kQ];
      ++counts[str_cat(kind->name(), " ", name_of(q.dtype), " ", to_string(q.shape), ": ",
                       describe(kind->choice(shapes.context())))];
    }
  }
  std::vector<std::string> lines;
  for (const auto& [line, count] : counts) lines.push_back(count == 1 ? line : str_cat(line, " (", count, " times)"));
  return lines;
}

double attention_flops(const AttentionArgs& args) {
  const Dims &q = args.q.shape, &k = args.k.shape, &v = args.v.shape;
  const double queries = static_cast<double>(q[0]), keys = static_cast<double>(k[0]);
  double visible = keys;                             // per query
  const bool shared = args.options.parts.ranks > 1;  // a part sees half of every part
  if (args.options.causal) visible = shared ? keys / 2 : std::max(keys - queries / 2, keys / 2);
  if (args.options.window_left >= 0) {
    const double right = args.options.causal ? 0 : static_cast<double>(args.options.window_right);
    if (right >= 0) visible = std::min(visible, static_cast<double>(args.options.window_left) + 1 + right);
  }
  const double heads = static_cast<double>(q[1] * q[2] * q[3]);
  return 2.0 * heads * queries * visible * static_cast<double>(k.back() + v.back());
}

}  // namespace megatron
