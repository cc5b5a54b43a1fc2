#include "kernels/attention_merge/attention_merge.h"

#include "base/strings.h"
#include "kernels/common.h"

namespace megatron {
namespace {

class AttentionMerge final : public OpKind {
 public:
  AttentionMerge(int64_t parts, MergeGradient gradient) : parts_(parts), gradient_(std::move(gradient)) {
    MEGATRON_CHECK(parts_ >= 1 && parts_ <= kMostMergedParts, str_cat("cannot merge ", parts_, " parts"));
  }
  std::string name() const override { return "attention_merge"; }
  std::string attributes() const override { return str_cat(parts_, " parts"); }
  Signature signature(const Operands&) const override {
    fail_check(__FILE__, __LINE__, "signature", "attention_merge infers itself");
  }
  bool takes_strided(int i) const override { return i >= 2 * parts_; }

  std::vector<ValueInfo> infer(const Operands& operands, const Mesh& mesh) const override {
    std::vector<ValueInfo> results;
    for (size_t r = 0; r < 2; ++r) {
      const ValueInfo& first = *operands[r];
      for (size_t i = r; i < static_cast<size_t>(2 * parts_); i += 2) check_same(*operands[i], first, mesh);
      ValueInfo result;
      result.dtype = first.dtype;
      result.shape = first.shape;
      result.placement = first.placement;
      result.sample_dim = first.sample_dim;
      results.push_back(result);
    }
    if (results[0].shape.rank() != 5 || results[1].shape.rank() != 4) {
      throw PlacementError{"a part is out [s,b,g,q,e] and lse [b,g,q,s]", "give what attention() returns"};
    }
    return results;
  }

  void backward(BackwardContext& context) const override {
    MEGATRON_CHECK(!context.gradient(1), "the log-sum-exp of attention has no gradient");
    MEGATRON_CHECK(gradient_ != nullptr, "attention_merge was made without a gradient");
    if (context.gradient(0)) gradient_(context, static_cast<int>(2 * parts_));
  }

  Cost cost(const RunContext& c) const override {
    Cost cost;
    for (int i = 0; i < 2 * parts_; ++i) cost.bytes += static_cast<double>(c.in(i).bytes());
    for (const Tensor& result : c.results) cost.bytes += static_cast<double>(result.bytes());
    return cost;
  }
  void run_cpu(const RunContext& c) const override { attention_merge_cpu(args(c), c.pool); }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    attention_merge_cuda(args(c), c.stream);
  }
#endif

 private:
  static void check_same(const ValueInfo& x, const ValueInfo& first, const Mesh& mesh) {
    bool partial = false;
    for (const AxisPlacement& p : x.placement) partial = partial || p.partial();
    if (x.dtype == first.dtype && x.shape == first.shape && x.placement == first.placement && !partial) return;
    throw PlacementError{str_cat("a part is ", to_string(x.shape), " ", to_string(x.placement, mesh), ", another ",
                                 to_string(first.shape), " ", to_string(first.placement, mesh)),
                         "merge parts of the same queries"};
  }

  AttentionMergeArgs args(const RunContext& c) const {
    AttentionMergeArgs args;
    for (int i = 0; i < parts_; ++i) {
      args.outs.push_back(c.in(2 * i));
      args.lses.push_back(c.in(2 * i + 1));
    }
    args.out = c.out(0);
    args.lse = c.out(1);
    return args;
  }

  int64_t parts_;
  MergeGradient gradient_;
};

}  // namespace

std::shared_ptr<const OpKind> attention_merge_kind(int64_t parts, MergeGradient gradient) {
  return std::make_shared<AttentionMerge>(parts, std::move(gradient));
}

AttentionResult attention_merge(Trace& trace, const std::vector<AttentionResult>& parts,
                                const std::vector<Value>& sources, MergeGradient gradient) {
  std::vector<Value> operands;
  for (const AttentionResult& part : parts) operands.insert(operands.end(), {part.out, part.lse});
  operands.insert(operands.end(), sources.begin(), sources.end());
  const std::vector<Value> results = trace.emit(attention_merge_kind(std::ssize(parts), std::move(gradient)), operands);
  return {results[0], results[1]};
}

}  // namespace megatron
