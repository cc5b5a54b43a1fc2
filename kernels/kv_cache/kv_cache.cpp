// Declarations of the key-value cache.
#include "kernels/kv_cache/kv_cache.h"

#include "base/check.h"
#include "base/strings.h"

namespace megatron {
namespace {

void require_positions(const Operands& operands, size_t i) {
  if (operands[i] == nullptr || operands[i]->dtype != DType::kI32) throw PlacementError{"position is int32", "give it"};
}

void require_dtype(const Operands& operands, size_t i) {
  if (operands[i]->dtype != operands[0]->dtype) {
    throw PlacementError{
        str_cat("operand ", i, " is ", name_of(operands[i]->dtype), " but operand 0 is ", name_of(operands[0]->dtype)),
        "cast it"};
  }
}

class KvCacheAppend final : public OpKind {
 public:
  std::string name() const override { return "kv_cache_append"; }
  Signature signature(const Operands& operands) const override {
    require_dtype(operands, 1);
    require_positions(operands, 2);
    Signature s;
    s.operands = {"btgd", "sbgd", "sb"};
    s.whole = "tsd";
    return s;
  }
  bool takes_strided(int i) const override { return i == 1; }
  std::vector<int> updates() const override { return {0}; }
  Cost cost(const RunContext& c) const override {
    Cost cost;
    cost.bytes = 2.0 * static_cast<double>(c.in(1).bytes());
    return cost;
  }
  void run_cpu(const RunContext& c) const override { kv_cache_append_cpu({c.in(0), c.in(1), c.in(2)}); }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    kv_cache_append_cuda({c.in(0), c.in(1), c.in(2)}, c.stream);
  }
#endif
};

class AttentionCached final : public OpKind {
 public:
  explicit AttentionCached(AttentionOptions options) : options_(std::move(options)) {
    MEGATRON_CHECK(options_.dropout == 0, "attention over a cache has no dropout");
  }
  std::string name() const override { return "attention_cached"; }
  std::string attributes() const override {
    return str_cat("scale=", options_.softmax_scale, " window_left=", options_.window_left);
  }
  Signature signature(const Operands& operands) const override {
    require_dtype(operands, 1);
    require_dtype(operands, 2);
    require_positions(operands, 3);
    Signature s = parse_signature("sbgqd,btgd,btge,sb->sbgqe", operands[0]->dtype);
    s.whole = "tde";
    return s;
  }
  bool takes_strided(int i) const override { return i == 0; }
  Cost cost(const RunContext& c) const override {
    Cost cost = OpKind::cost(c);
    AttentionArgs a = args(c);
    a.options.causal = false;  // the visible part is not known beforehand: the whole cache
    cost.flops = attention_flops(a);
    return cost;
  }
  int64_t workspace(const RunContext& c, DeviceKind device) const override {
    return device == DeviceKind::kCpu ? attention_workspace_cpu(args(c)) : attention_own_workspace_cuda(args(c));
  }
  void run_cpu(const RunContext& c) const override { attention_cpu(args(c), c.workspace, c.pool); }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    attention_own_cuda(args(c), c.workspace, c.stream);
  }
#endif

 private:
  AttentionArgs args(const RunContext& c) const {
    return cached_attention_args(c.in(0), c.in(1), c.in(2), c.in(3), c.out(0), options_);
  }

  AttentionOptions options_;
};

}  // namespace

std::shared_ptr<const OpKind> kv_cache_append_kind() {
  return std::make_shared<KvCacheAppend>();
}

std::shared_ptr<const OpKind> attention_cached_kind(const AttentionOptions& options) {
  return std::make_shared<AttentionCached>(options);
}

void kv_cache_append(Trace& trace, Value cache, Value x, Value position) {
  trace.emit(kv_cache_append_kind(), {cache, x, position});
}

Value attention_cached(Trace& trace, Value q, Value k_cache, Value v_cache, Value position,
                       const AttentionOptions& options) {
  return trace.emit1(attention_cached_kind(options), {q, k_cache, v_cache, position});
}

}  // namespace megatron
