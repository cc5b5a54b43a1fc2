#include "kernels/repeat_groups/repeat_groups.h"

#include <vector>

#include "base/strings.h"
#include "program/elementwise.h"
#include "program/strided.h"
#include "program/views.h"
#ifdef MEGATRON_HAVE_CUDA
#include "program/elementwise_cuda.h"
#endif

namespace megatron {
namespace {

class RepeatGroups final : public OpKind {
 public:
  explicit RepeatGroups(int64_t times) : times_(times) {}
  std::string name() const override { return "repeat_groups"; }
  std::string attributes() const override { return str_cat(times_, " times"); }
  Signature signature(const Operands&) const override {
    fail_check(__FILE__, __LINE__, "signature", "repeat_groups infers itself");
  }
  bool takes_strided(int) const override { return true; }

  std::vector<ValueInfo> infer(const Operands& operands, const Mesh& mesh) const override {
    const ValueInfo& x = *operands[0];
    if (x.shape.rank() != 4) throw PlacementError{"x is " + to_string(x.shape), "give [s, b, g, d]"};
    ValueInfo y;
    y.dtype = x.dtype;
    y.shape = x.shape;
    y.shape[2] *= times_;
    y.placement = x.placement;
    y.sample_dim = x.sample_dim;
    for (size_t axis = 0; axis < mesh.axes.size(); ++axis) {
      if (x.placement[axis] == AxisPlacement::S(2) && x.shape[2] % mesh.axes[axis].size != 0) {
        throw PlacementError{str_cat(x.shape[2], " groups are not equal blocks over ", mesh.axes[axis].name),
                             "choose a number of groups that its ranks divide"};
      }
    }
    return {y};
  }

  void backward(BackwardContext& c) const override {
    const Value g = c.gradient(0);
    if (!g || !c.wants(0)) return;
    Trace& t = c.trace();
    const Dims shape = t.shape(c.operand(0));
    const Value apart = reshape(t, g, {shape[0], shape[1], shape[2], times_, shape[3]});
    Value sum;
    for (const Value copy : split(t, apart, 3, std::vector<int64_t>(static_cast<size_t>(times_), 1))) {
      sum = sum ? add(t, sum, copy) : copy;
    }
    c.set(0, reshape(t, contiguous(t, sum), shape));
  }

  void run_cpu(const RunContext& c) const override { copy_strided(repeated(c.in(0)), apart(c.out(0))); }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    copy_strided_cuda(repeated(c.in(0)), apart(c.out(0)), c.stream);
  }
#endif

 private:
  /// [s, b, g, times, d], the copies in one place.
  Tensor repeated(Tensor x) const {
    x.shape = {x.shape[0], x.shape[1], x.shape[2], times_, x.shape[3]};
    x.strides = {x.strides[0], x.strides[1], x.strides[2], 0, x.strides[3]};
    return x;
  }
  Tensor apart(const Tensor& y) const {
    return make_tensor(y.data, y.dtype, {y.shape[0], y.shape[1], y.shape[2] / times_, times_, y.shape[3]});
  }

  int64_t times_;
};

}  // namespace

std::shared_ptr<const OpKind> repeat_groups_kind(int64_t times) {
  return std::make_shared<RepeatGroups>(times);
}

Value repeat_groups(Trace& trace, Value x, int64_t times) {
  return times == 1 ? x : trace.emit1(repeat_groups_kind(times), {x});
}

}  // namespace megatron
