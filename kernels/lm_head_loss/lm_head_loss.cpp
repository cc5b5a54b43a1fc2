// Declaration of the fused language-model head and cross entropy.
#include "kernels/lm_head_loss/lm_head_loss.h"

#include "base/check.h"
#include "base/strings.h"

namespace megatron {
namespace {

enum Operand { kX, kW, kLabels, kWeights, kSeed };
enum Result { kLoss, kDx, kDw, kTokenLoss };

class LmHeadLoss final : public OpKind {
 public:
  explicit LmHeadLoss(int64_t valid_vocab) : valid_vocab_(valid_vocab) {}
  std::string name() const override { return "lm_head_loss"; }
  std::string attributes() const override { return str_cat("valid_vocab=", valid_vocab_); }
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
  int64_t workspace(const RunContext& c, DeviceKind) const override { return lm_head_loss_workspace_cpu(args(c)); }
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

 private:
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
    return a;
  }

  int64_t valid_vocab_;
};

}  // namespace

std::shared_ptr<const OpKind> lm_head_loss_kind(int64_t valid_vocab) {
  return std::make_shared<LmHeadLoss>(valid_vocab);
}

LmHeadLossResult lm_head_loss_all(Trace& trace, Value x, Value w, Value labels, Value weights, Value seed,
                                  int64_t valid_vocab) {
  const std::vector<Value> results = trace.emit(lm_head_loss_kind(valid_vocab), {x, w, labels, weights, seed});
  return {results[kLoss], results[kTokenLoss]};
}

Value lm_head_loss(Trace& trace, Value x, Value w, Value labels, Value weights, Value seed, int64_t valid_vocab) {
  return lm_head_loss_all(trace, x, w, labels, weights, seed, valid_vocab).loss;
}

}  // namespace megatron
