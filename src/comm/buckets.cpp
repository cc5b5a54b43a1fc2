#include "comm/buckets.h"

#include <algorithm>

#include "base/check.h"
#include "base/strings.h"
#include "base/thread_pool.h"
#include "program/comm.h"
#include "program/planned_call.h"
#ifdef MEGATRON_HAVE_CUDA
#include "program/elementwise_cuda.h"
#endif

namespace megatron {
namespace {

AxisPlacement& on_axis(ValueInfo& v, const Mesh& mesh, const std::string& axis) {
  const int found = mesh.find(axis);
  if (found < 0) throw PlacementError{"the mesh has no axis '" + axis + "'", "skip collectives over axes of one rank"};
  return v.placement[static_cast<size_t>(found)];
}

const char* text(const AxisPlacement& p) {
  return p.partial() ? "partial" : p.flat() ? "flat" : p.sharded() ? "sharded" : "replicated";
}

/// The type of `x` with another placement over the axis; refuses one that is not `from` there.
ValueInfo moved(const ValueInfo& x, const Mesh& mesh, const std::string& axis, const AxisPlacement& from,
                const AxisPlacement& to) {
  ValueInfo y;
  y.dtype = x.dtype;
  y.shape = x.shape;
  y.placement = x.placement;
  AxisPlacement& p = on_axis(y, mesh, axis);
  if (!(p == from)) {
    throw PlacementError{
        str_cat("an operand is ", to_string(x.placement, mesh), ", which is not ", text(from), " over ", axis),
        "use the collective that fits the placement"};
  }
  p = AxisPlacement::R();
  if (to.flat() && is_flat(y.placement)) {
    throw PlacementError{"the operand is flat over another axis already", "all_reduce it over this one"};
  }
  p = to;
  return y;
}

Value block_of_gradient(Trace& t, Value g, const std::string& axis, bool bf16);

class FlatSlice final : public OpKind {
 public:
  explicit FlatSlice(std::string axis) : axis_(std::move(axis)) {}
  std::string name() const override { return "flat_slice"; }
  std::string attributes() const override { return axis_; }
  bool is_view() const override { return true; }
  Signature signature(const Operands&) const override {
    fail_check(__FILE__, __LINE__, "signature", "views have none");
  }
  std::vector<ValueInfo> infer(const Operands& operands, const Mesh& mesh) const override {
    const ValueInfo& x = *operands[0];
    if (!is_contiguous(local_shape(x.shape, x.placement, mesh), x.storage.strides)) {
      throw PlacementError{"the operand is a strided view", "insert contiguous()"};
    }
    ValueInfo y = moved(x, mesh, axis_, AxisPlacement::R(), AxisPlacement::F());
    y.storage = x.storage;
    y.storage.offset += flat_range(y.shape, y.placement, mesh).begin;
    y.storage.strides = Dims{1};
    return {y};
  }
  void backward(BackwardContext& context) const override {
    const Value g = context.gradient(0);
    if (g) context.set(0, all_gather_flat(context.trace(), {g}, axis_)[0]);
  }

 private:
  std::string axis_;
};

class ShareFlat final : public OpKind {
 public:
  ShareFlat(std::string axis, bool bf16) : axis_(std::move(axis)), bf16_(bf16) {}
  std::string name() const override { return "share_flat"; }
  std::string attributes() const override { return axis_; }
  bool is_view() const override { return true; }
  Signature signature(const Operands&) const override {
    fail_check(__FILE__, __LINE__, "signature", "views have none");
  }
  std::vector<ValueInfo> infer(const Operands& operands, const Mesh& mesh) const override {
    ValueInfo y = moved(*operands[0], mesh, axis_, AxisPlacement::R(), AxisPlacement::R());
    y.storage = operands[0]->storage;
    return {y};
  }
  void backward(BackwardContext& context) const override {
    if (context.gradient(0)) context.set(0, block_of_gradient(context.trace(), context.gradient(0), axis_, bf16_));
  }

 private:
  std::string axis_;
  bool bf16_;
};

enum class Bucket { kAllReduce, kReduceScatter, kAllGather };

/// Copies with conversion between fp32 or fp64 and bf16.
void convert(const RunContext& c, DeviceKind device, const Tensor& from, const Tensor& to) {
#ifdef MEGATRON_HAVE_CUDA
  if (device == DeviceKind::kCuda) {
    zero_strided_cuda(to, c.stream);
    return accumulate_cuda(from, to, c.stream);
  }
#endif
  MEGATRON_CHECK(device == DeviceKind::kCpu, "this build has no CUDA");
  dispatch_floating("convert", from.dtype, [&](auto from_tag) {
    dispatch_floating("convert", to.dtype, [&](auto to_tag) {
      using S = decltype(from_tag);
      using T = decltype(to_tag);
      const S* x = from.as<S>();
      T* y = to.as<T>();
      c.pool->parallel_for(from.numel(), 1 << 15, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) y[i] = static_cast<T>(static_cast<Accumulator<S>>(x[i]));
      });
    });
  });
}

Tensor as_row(const Tensor& t) {
  return make_tensor(t.data, t.dtype, Dims{t.numel()});
}

class BucketKind final : public OpKind {
 public:
  /// `count` sources.
  BucketKind(Bucket kind, std::string axis, bool into, bool bf16, size_t count)
      : kind_(kind), axis_(std::move(axis)), into_(into), bf16_(bf16), count_(count) {}
  Bucket kind() const { return kind_; }
  bool into() const { return into_; }
  bool bf16() const { return bf16_; }

  std::string name() const override {
    const char* base = kind_ == Bucket::kAllReduce       ? "all_reduce"
                       : kind_ == Bucket::kReduceScatter ? "reduce_scatter"
                                                         : "all_gather";
    return str_cat(base, into_ ? "_into" : "_flat");
  }
  std::string attributes() const override { return axis_ + (bf16_ ? " bf16" : ""); }
  std::string comm_axis() const override { return axis_; }
  Signature signature(const Operands&) const override {
    fail_check(__FILE__, __LINE__, "signature", "collectives infer themselves");
  }
  /// The second half of the operands.
  std::vector<int> updates() const override {
    std::vector<int> targets;
    for (size_t i = 0; into_ && i < count_; ++i) targets.push_back(static_cast<int>(count_ + i));
    return targets;
  }

  std::vector<ValueInfo> infer(const Operands& operands, const Mesh& mesh) const override {
    MEGATRON_CHECK(operands.size() == (into_ ? 2 : 1) * count_, name() + ": another number of operands");
    const AxisPlacement from = kind_ == Bucket::kAllGather ? AxisPlacement::F() : AxisPlacement::P();
    const AxisPlacement to = kind_ == Bucket::kReduceScatter ? AxisPlacement::F() : AxisPlacement::R();
    std::vector<ValueInfo> results;
    for (size_t i = 0; i < count_; ++i) results.push_back(moved(*operands[i], mesh, axis_, from, to));
    if (!into_) return results;
    for (size_t i = 0; i < count_; ++i) check_target(results[i], *operands[count_ + i], i, mesh);
    return {};
  }

  void backward(BackwardContext& context) const override {
    Trace& t = context.trace();
    for (size_t n = 0; n < count_; ++n) {
      const int i = static_cast<int>(n);
      const Value g = context.gradient(i);
      if (!g) continue;
      context.set(i, kind_ == Bucket::kReduceScatter ? all_gather_flat(t, {g}, axis_)[0]
                                                     : block_of_gradient(t, g, axis_, bf16_));
    }
  }

  std::vector<PlannedCall> calls(const RunContext& c, DeviceKind) const override {
    std::vector<PlannedCall> all;
    for (size_t i = 0; i < count_; ++i) {
      const int64_t whole = whole_of(c, i);
      if (whole == 0 || (!into_ && c.is_unread(static_cast<int>(i)))) continue;
      const DType dtype = converts() ? DType::kBF16 : source(c, i).dtype;
      if (kind_ == Bucket::kAllReduce) {
        all.push_back(PlannedCall::all_reduce(dtype, whole));
      } else if (kind_ == Bucket::kAllGather) {
        all.push_back(PlannedCall::all_gather(dtype, counts_of(whole, c.place.ranks), c.place.rank));
      } else {
        all.push_back(PlannedCall::reduce_scatter(dtype, counts_of(whole, c.place.ranks), c.place.rank));
      }
    }
    return all;
  }
  int64_t workspace(const RunContext& c, DeviceKind) const override {
    int64_t bytes = 0;
    for (size_t i = 0; converts() && i < count_; ++i) bytes += room(source(c, i)) + room(target(c, i));
    return bytes;
  }

  void run_cpu(const RunContext& c) const override { communicate(c, DeviceKind::kCpu); }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    communicate(c, DeviceKind::kCuda);
  }
#endif

 private:
  bool converts() const {
    return bf16_ && kind_ != Bucket::kAllGather;
  }
  static int64_t room(const Tensor& t) {
    return round_up(t.numel() * size_of(DType::kBF16), Device::kAlignment);
  }

  void check_target(const ValueInfo& wanted, const ValueInfo& target, size_t i, const Mesh& mesh) const {
    if (wanted.dtype == target.dtype && wanted.shape == target.shape && wanted.placement == target.placement) return;
    throw PlacementError{str_cat("target ", i, " is ", name_of(target.dtype), to_string(target.shape), " ",
                                 to_string(target.placement, mesh), ", its source makes ", name_of(wanted.dtype),
                                 to_string(wanted.shape), " ", to_string(wanted.placement, mesh)),
                         "give every source its own target"};
  }

  const Tensor& source(const RunContext& c, size_t i) const {
    return c.operands[i];
  }
  const Tensor& target(const RunContext& c, size_t i) const {
    return into_ ? c.operands[count_ + i] : c.results[i];
  }

  int64_t whole_of(const RunContext& c, size_t i) const {
    return std::max(source(c, i).numel(), target(c, i).numel());
  }
  static std::vector<int64_t> counts_of(int64_t whole, int ranks) {
    std::vector<int64_t> counts;
    for (int r = 0; r < ranks; ++r) counts.push_back(flat_block(whole, ranks, r).size);
    return counts;
  }

  /// One call per value; what nobody reads, and what is empty on all ranks, needs none.
  void communicate(const RunContext& c, DeviceKind device) const {
    std::vector<CommCall> calls;
    std::vector<std::vector<int64_t>> counts(count_);
    std::vector<std::pair<Tensor, Tensor>> after;  // what came as bf16, and where it belongs
    auto* free = static_cast<std::byte*>(c.workspace);
    for (size_t i = 0; i < count_; ++i) {
      CommCall call;
      call.source = as_row(source(c, i));
      call.target = as_row(target(c, i));
      call.stream = c.stream;
      const int64_t whole = whole_of(c, i);
      if (call.target.data == nullptr || whole == 0) continue;
      if (converts()) {
        const Tensor wire = make_tensor(free, DType::kBF16, call.source.shape);
        const Tensor sum = make_tensor(free + room(wire), DType::kBF16, call.target.shape);
        free += room(wire) + room(sum);
        convert(c, device, call.source, wire);
        after.emplace_back(sum, call.target);
        call.source = wire;
        call.target = sum;
      }
      set_counts(call, counts[i], whole, c.comm->size());
      calls.push_back(call);
    }
    c.comm->run_checked(calls);
    for (const auto& [from, to] : after) convert(c, device, from, to);
  }

  void set_counts(CommCall& call, std::vector<int64_t>& counts, int64_t whole, int ranks) const {
    call.op = CommOp::kAllReduce;
    if (kind_ == Bucket::kAllReduce) return;
    counts = counts_of(whole, ranks);
    if (kind_ == Bucket::kAllGather) {
      call.op = CommOp::kAllGather;
      call.receive_counts = counts.data();
    } else {
      call.op = CommOp::kReduceScatter;
      call.send_counts = counts.data();
    }
  }

  Bucket kind_;
  std::string axis_;
  bool into_, bf16_;
  size_t count_;
};

std::vector<Value> emit_flat(Trace& t, Bucket kind, const std::vector<Value>& values, const std::string& axis,
                             bool bf16) {
  return t.emit(std::make_shared<BucketKind>(kind, axis, false, bf16, values.size()), values);
}

void emit_into(Trace& t, Bucket kind, const std::vector<Value>& from, const std::vector<Value>& to,
               const std::string& axis, bool bf16) {
  MEGATRON_CHECK(from.size() == to.size(), "every source of a collective has a target");
  std::vector<Value> operands = from;
  operands.insert(operands.end(), to.begin(), to.end());
  t.emit(std::make_shared<BucketKind>(kind, axis, true, bf16, from.size()), operands);
}

Value block_of_gradient(Trace& t, Value g, const std::string& axis, bool bf16) {
  const bool partial = t.info(g).placement[static_cast<size_t>(t.mesh().find(axis))].partial();
  return partial ? reduce_scatter_flat(t, {g}, axis, bf16)[0] : flat_slice(t, g, axis);
}

}  // namespace

Value flat_slice(Trace& t, Value x, const std::string& axis) {
  return t.emit1(std::make_shared<FlatSlice>(axis), {x});
}
Value share_flat(Trace& t, Value x, const std::string& axis, bool bf16) {
  return t.emit1(std::make_shared<ShareFlat>(axis, bf16), {x});
}

std::vector<Value> all_gather_flat(Trace& t, const std::vector<Value>& blocks, const std::string& axis, bool bf16) {
  return emit_flat(t, Bucket::kAllGather, blocks, axis, bf16);
}
std::vector<Value> reduce_scatter_flat(Trace& t, const std::vector<Value>& partial, const std::string& axis,
                                       bool bf16) {
  return emit_flat(t, Bucket::kReduceScatter, partial, axis, bf16);
}

void all_reduce_into(Trace& t, const std::vector<Value>& partial, const std::vector<Value>& sums,
                     const std::string& axis, bool bf16) {
  emit_into(t, Bucket::kAllReduce, partial, sums, axis, bf16);
}
void reduce_scatter_into(Trace& t, const std::vector<Value>& partial, const std::vector<Value>& blocks,
                         const std::string& axis, bool bf16) {
  emit_into(t, Bucket::kReduceScatter, partial, blocks, axis, bf16);
}
void all_gather_into(Trace& t, const std::vector<Value>& blocks, const std::vector<Value>& wholes,
                     const std::string& axis) {
  emit_into(t, Bucket::kAllGather, blocks, wholes, axis, false);
}

namespace {

std::shared_ptr<const OpKind> with_count(const OpKind& kind, Bucket wanted, size_t count) {
  const auto* bucket = dynamic_cast<const BucketKind*>(&kind);
  if (bucket == nullptr || bucket->kind() != wanted || bucket->into()) return nullptr;
  return std::make_shared<BucketKind>(wanted, bucket->comm_axis(), false, bucket->bf16(), count);
}

}  // namespace

std::shared_ptr<const OpKind> all_gather_flat_of(const OpKind& kind, size_t count) {
  return with_count(kind, Bucket::kAllGather, count);
}
std::shared_ptr<const OpKind> reduce_scatter_flat_of(const OpKind& kind, size_t count) {
  return with_count(kind, Bucket::kReduceScatter, count);
}

}  // namespace megatron
