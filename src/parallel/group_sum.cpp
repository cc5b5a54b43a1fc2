#include "parallel/group_sum.h"

#include "base/check.h"
#include "program/comm.h"
#include "program/planned_call.h"

namespace megatron {
namespace {

class GroupSum final : public OpKind {
 public:
  GroupSum(std::string group, bool in_place) : group_(std::move(group)), in_place_(in_place) {}
  std::string name() const override { return in_place_ ? "group_sum_in_place" : "group_sum"; }
  std::string attributes() const override { return group_; }
  std::string comm_axis() const override { return group_; }
  std::vector<int> updates() const override { return in_place_ ? std::vector<int>{0} : std::vector<int>{}; }
  Signature signature(const Operands&) const override {
    fail_check(__FILE__, __LINE__, "signature", "collectives infer themselves");
  }

  std::vector<ValueInfo> infer(const Operands& operands, const Mesh&) const override {
    if (in_place_) return {};
    ValueInfo y;
    y.dtype = operands[0]->dtype;
    y.shape = operands[0]->shape;
    y.placement = operands[0]->placement;
    return {y};
  }

  std::vector<PlannedCall> calls(const RunContext& c, DeviceKind) const override {
    return {PlannedCall::all_reduce(c.in(0).dtype, c.in(0).numel())};
  }

  void run_cpu(const RunContext& c) const override { sum(c); }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    sum(c);
  }
#endif

 private:
  void sum(const RunContext& c) const {
    c.comm->all_reduce(c.in(0), in_place_ ? c.in(0) : c.out(0), Reduction::kSum, c.stream);
  }

  std::string group_;
  bool in_place_;
};

}  // namespace

Value group_sum(Trace& t, Value x, const std::string& group) {
  return t.emit1(std::make_shared<GroupSum>(group, false), {x});
}

void group_sum_in_place(Trace& t, Value state, const std::string& group) {
  t.emit(std::make_shared<GroupSum>(group, true), {state});
}

}  // namespace megatron
