// Declaration of the fused language-model head and cross entropy.
#include "kernels/lm_head_loss/lm_head_loss.h"

#include <algorithm>

#include "base/check.h"
#include "base/error.h"
#include "base/strings.h"
#include "kernels/linear/gemm_cuda.h"
#include "program/planned_call.h"

namespace megatron {
namespace {

enum Operand { kX, kW, kLabels, kWeights, kSeed };
enum Result { kLoss, kDx, kDw, kTokenLoss };

class LmHeadLoss final : public OpKind {
 public:
  LmHeadLoss(int64_t valid_vocab, VocabularyShards shards) : valid_vocab_(valid_vocab), shards_(std::move(shards)) {}
  std::string name() const override { return "lm_head_loss"; }
  std::string attributes() const override {
    return str_cat("valid_vocab=", valid_vocab_, shards_.axis.empty() ? "" : " over " + shards_.axis);
  }
  std::string comm_axis() const override { return shards_.axis; }
  Signature signature(const Operands& operands) const override {
    const DType dtype = operands[kX]->dtype, sums = accumulation_dtype(dtype);
    const auto require = [&](int i, DType wanted, const char* what) {
      if (operands[static_cast<size_t>(i)]->dtype != wanted) {
        throw PlacementError{
            str_cat(what, " must be ", name_of(wanted), ", not ", name_of(operands[static_cast<size_t>(i)]->dtype)),
            "cast it"};
      }
    };
    require(kW, dtype, "w");
    require(kLabels, DType::kI32, "labels");
    require(kWeights, DType::kF32, "weights");
    require(kSeed, sums, "the seed");
    if (operands[kW]->shape.rank() == 2 && (valid_vocab_ < 1 || valid_vocab_ > operands[kW]->shape[0])) {
      throw PlacementError{str_cat("valid_vocab is ", valid_vocab_, " but w has ", operands[kW]->shape[0], " rows"),
                           "give 1 ... rows of w"};
    }
    Signature s = parse_signature("sbc,vc,sb,sb,->,sbc,vc,sb", sums);
    s.results[kDx].dtype = dtype;
    s.whole = "cv";
    return s;
  }
  /// The axis that the vocabulary is spread over has a rule of its own; the general one holds for the others.
  std::vector<ValueInfo> infer(const Operands& operands, const Mesh& mesh) const override {
    if (shards_.axis.empty()) return OpKind::infer(operands, mesh);
    const int found = mesh.find(shards_.axis);
    if (found < 0) throw PlacementError{"the mesh has no axis '" + shards_.axis + "'", "give w whole"};
    const auto axis = static_cast<size_t>(found);
    std::vector<ValueInfo> whole;
    for (size_t i = 0; i < operands.size(); ++i) {
      check_on_axis(*operands[i], static_cast<int>(i), axis);
      whole.push_back(*operands[i]);
      whole.back().placement[axis] = AxisPlacement::R();
    }
    Operands types;
    for (const ValueInfo& v : whole) types.push_back(&v);
    std::vector<ValueInfo> results = OpKind::infer(types, mesh);
    results[kDx].placement[axis] = AxisPlacement::P();
    results[kDw].placement[axis] = AxisPlacement::S(0);
    return results;
  }
  bool accumulates(int result) const override { return result == kLoss || result == kDw; }
  void backward(BackwardContext& c) const override {
    for (int i = kDx; i <= kTokenLoss; ++i) MEGATRON_CHECK(!c.gradient(i), "only the loss has a gradient");
    // The gradient of the loss came in as the seed: dx and dw are there already.
    if (c.wants(kX)) c.set(kX, c.result(kDx));
    if (c.wants(kW)) c.set(kW, c.result(kDw));
  }
  Cost cost(const RunContext& c) const override {
    Cost cost = OpKind::cost(c);
    const double tokens = static_cast<double>(c.in(kLabels).numel());
    // Logits, dx and dw: an evaluation, which leaves out the last two, is not told apart here.
    cost.flops = 3 * 2 * tokens * static_cast<double>(c.in(kW).numel());
    return cost;
  }
  /// Maximum, then sum and target of every token, chunk by chunk.
  std::vector<PlannedCall> calls(const RunContext& c, DeviceKind device) const override {
    std::vector<PlannedCall> all;
    if (shards_.axis.empty()) return all;
    const LmHeadLossArgs a = args(c);
    const int64_t tokens = a.labels.numel();
    const int64_t chunk = device == DeviceKind::kCpu ? lm_head_loss_chunk_cpu(a) : lm_head_loss_layout_cuda(a).chunk;
    for (int64_t first = 0; first < tokens; first += chunk) {
      const int64_t count = std::min(chunk, tokens - first);
      all.push_back(PlannedCall::all_reduce(a.seed.dtype, count, Reduction::kMax));
      all.push_back(PlannedCall::all_reduce(a.seed.dtype, 2 * count));
    }
    return all;
  }
  int64_t workspace(const RunContext& c, DeviceKind device) const override {
    return device == DeviceKind::kCpu ? lm_head_loss_workspace_cpu(args(c)) : lm_head_loss_workspace_cuda(args(c));
  }
  void run_cpu(const RunContext& c) const override {
    LmHeadLossArgs a = args(c);
    a.add_loss = c.adds(kLoss);
    a.add_dw = c.adds(kDw);
    if (!c.operand_origins.empty()) {
      a.first_position = c.in_origin(kLabels)[0];
      a.first_sample = c.in_origin(kLabels)[1];
    }
    lm_head_loss_cpu(a, c.workspace, c.pool);
  }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    LmHeadLossArgs a = args(c);
    a.add_loss = c.adds(kLoss);
    a.add_dw = c.adds(kDw);
    lm_head_loss_cuda(a, c.workspace, c.stream);
  }
#endif

 private:
  void check_on_axis(const ValueInfo& v, int operand, size_t axis) const {
    const AxisPlacement& p = v.placement[axis];
    if (operand == kW) {
      if (p == AxisPlacement::S(0)) return;
      throw PlacementError{"w is not sharded on its rows over " + shards_.axis, "shard it, or make the kind without"};
    }
    if (p.replicated()) return;
    throw PlacementError{str_cat("operand ", operand, " is ", p.partial() ? "partial" : "sharded", " over ",
                                 shards_.axis, ", whose ranks share the vocabulary: each needs all of it"),
                         p.partial() ? "all_reduce it first" : "all_gather it first"};
  }

  LmHeadLossArgs args(const RunContext& c) const {
    LmHeadLossArgs a;
    a.x = c.in(kX);
    a.w = c.in(kW);
    a.labels = c.in(kLabels);
    a.weights = c.in(kWeights);
    a.seed = c.in(kSeed);
    a.loss = c.out(kLoss);
    a.dx = c.out(kDx);
    a.dw = c.out(kDw);
    a.token_loss = c.out(kTokenLoss);
    a.valid_vocab = valid_vocab_;
    if (!shards_.axis.empty()) {
      a.first_row = c.in_origin(kW)[0];
      a.ranks = shards_.ranks;
      a.most_rows = shards_.most_rows;
      a.comm = c.comm;
    }
    return a;
  }

  int64_t valid_vocab_;
  VocabularyShards shards_;
};

}  // namespace

// Here and not in the .cu file, so that plans for GPUs can be made by a build without CUDA. A chunk's logits take 2
// GiB, or as much as 1024 tokens need: passing dw through memory takes 800 / tokens of the time of its product on an
// H100, so that beyond 8192 tokens little is gained.
LmHeadLossLayout lm_head_loss_layout_cuda(const LmHeadLossArgs& args) {
  constexpr int64_t kBytes = int64_t{2} << 30, kLeast = 1024, kMost = 8192, kMultiple = 128;
  const int64_t element = size_of(accumulation_dtype(args.x.dtype));
  const int64_t tokens = std::max<int64_t>(args.x.shape[0] * args.x.shape[1], 1);
  const int64_t most = round_up(widest_vocab(args), 64);
  LmHeadLossLayout layout;
  layout.columns = std::min(args.w.shape[0], round_up(local_vocab(args), 64));
  layout.ld = round_up(layout.columns, 64);
  const int64_t fits = std::clamp(kBytes / (most * element) / kMultiple * kMultiple, kLeast, kMost);
  // As many chunks as needed, all of about one size.
  layout.chunk = std::min(tokens, round_up(div_ceil(tokens, div_ceil(tokens, fits)), kMultiple));
  layout.logits_bytes = round_up(layout.chunk * layout.ld * element, 256);
  layout.token_loss_bytes = round_up(tokens * element, 256);
  layout.sums_offset = layout.logits_bytes + layout.token_loss_bytes + kGemmWorkspaceCuda;
  if (args.ranks > 1) layout.sums_bytes = round_up(3 * layout.chunk * element, 256);
  return layout;
}

int64_t lm_head_loss_workspace_cuda(const LmHeadLossArgs& args) {
  const LmHeadLossLayout layout = lm_head_loss_layout_cuda(args);
  return layout.sums_offset + layout.sums_bytes;
}

std::shared_ptr<const OpKind> lm_head_loss_kind(int64_t valid_vocab, const VocabularyShards& shards) {
  return std::make_shared<LmHeadLoss>(valid_vocab, shards);
}

LmHeadLossResult lm_head_loss_all(Trace& trace, Value x, Value w, Value labels, Value weights, Value seed,
                                  int64_t valid_vocab) {
  VocabularyShards shards;
  const Mesh& mesh = trace.mesh();
  for (size_t axis = 0; axis < mesh.axes.size() && shards.axis.empty(); ++axis) {
    if (trace.info(w).placement[axis] != AxisPlacement::S(0)) continue;
    shards.axis = mesh.axes[axis].name;
    shards.ranks = mesh.axes[axis].size;
    shards.most_rows = div_ceil(trace.shape(w)[0], static_cast<int64_t>(shards.ranks));
  }
  const std::vector<Value> results = trace.emit(lm_head_loss_kind(valid_vocab, shards), {x, w, labels, weights, seed});
  // Its collectives lie between its products: it stays with the arithmetic.
  trace.program().op(trace.info(results[kLoss]).producer).stream = Stream::kCompute;
  return {results[kLoss], results[kTokenLoss]};
}

Value lm_head_loss(Trace& trace, Value x, Value w, Value labels, Value weights, Value seed, int64_t valid_vocab) {
  return lm_head_loss_all(trace, x, w, labels, weights, seed, valid_vocab).loss;
}

}  // namespace megatron
