#include <map>

#include "base/check.h"
#include "base/strings.h"
#include "program/elementwise.h"
#include "program/passes.h"
#include "program/trace.h"

namespace megatron {

std::string gradient_name(const std::string& parameter) { return "gradient/" + parameter; }

namespace {

class Differentiator {
 public:
  explicit Differentiator(Program& program) : program_(program), trace_(program, true) {
    trace_.set_phase(Phase::kBackward);
  }

  void run() {
    mark_wanted();
    for (const Loss& loss : program_.losses) {
      MEGATRON_CHECK(loss.seed != kNone, "a loss needs a seed");
      add_gradient(loss.value, {loss.seed});
    }
    const std::vector<OpId> forward = program_.list(Phase::kForward);
    for (auto it = forward.rbegin(); it != forward.rend(); ++it) visit(*it);
    trace_.set_scope("");
  }

 private:
  /// A value wants a gradient when it is a parameter or depends on one.
  void mark_wanted() {
    wanted_.assign(program_.values.size(), false);
    for (const ParameterInfo& p : program_.parameters) wanted_[static_cast<size_t>(p.value)] = true;
    for (OpId id : program_.list(Phase::kForward)) {
      const Op& op = program_.op(id);
      bool any = false;
      for (ValueId v : op.operands) any = any || (v != kNone && wanted_[static_cast<size_t>(v)]);
      for (ValueId v : op.results) wanted_[static_cast<size_t>(v)] = any && is_floating(program_.value(v).dtype);
    }
  }

  void visit(OpId id) {
    std::vector<Value> gradients;
    bool any = false;
    for (ValueId v : program_.op(id).results) {
      const auto found = gradients_.find(v);
      gradients.push_back(found == gradients_.end() ? Value{} : found->second);
      any = any || gradients.back();
    }
    if (!any) return;
    std::vector<bool> wanted;
    bool any_wanted = false;
    for (ValueId v : program_.op(id).operands) {
      wanted.push_back(v != kNone && wanted_[static_cast<size_t>(v)]);
      any_wanted = any_wanted || wanted.back();
    }
    if (!any_wanted) return;
    trace_.set_scope(program_.op(id).scope);
    const std::shared_ptr<const OpKind> kind = program_.op(id).kind;
    BackwardContext context(trace_, id, std::move(gradients));
    context.set_wanted(std::move(wanted));
    kind->backward(context);
    for (const auto& [target, gradient] : context.contributions()) contribute(target, gradient);
  }

  void contribute(ValueId target, ValueId gradient) {
    if (program_.value(target).lifetime == Lifetime::kParameter) {
      add_to_parameter(target, gradient);
    } else {
      add_gradient(target, {gradient});
    }
  }

  void add_gradient(ValueId target, Value gradient) {
    const auto [place, fresh] = gradients_.try_emplace(target, gradient);
    if (fresh) return;
    const Value earlier = place->second;
    check_same_type(earlier.id, gradient.id, target);
    place->second = can_accumulate(gradient.id) && is_dense(earlier.id) ? accumulate_on(gradient, earlier)
                                                                       : add(trace_, earlier, gradient);
  }

  /// Result `v` of the last operation that made it may add to something else instead of overwriting.
  bool can_accumulate(ValueId v) const {
    const ValueInfo& info = program_.value(v);
    if (info.producer == kNone || info.storage.root != v) return false;
    const Op& op = program_.op(info.producer);
    for (size_t i = 0; i < op.results.size(); ++i) {
      if (op.results[i] == v) return op.kind->accumulates(static_cast<int>(i)) && op.accumulate[i] == kNone;
    }
    return false;
  }

  bool is_dense(ValueId v) const {
    return is_contiguous(program_.local_shape(v), program_.value(v).storage.strides);
  }

  Value accumulate_on(Value gradient, Value earlier) {
    trace_.accumulate_into(gradient, earlier);
    return gradient;
  }

  void add_to_parameter(ValueId parameter, ValueId gradient) {
    ParameterInfo& info = parameter_info(parameter);
    const ValueInfo g = program_.value(gradient);
    const DType dtype = accumulation_dtype(program_.value(parameter).dtype);
    if (info.gradient == kNone) {
      info.gradient = trace_.state(gradient_name(program_.value(parameter).name), dtype, g.shape, g.placement).id;
    }
    if (g.dtype == dtype && can_accumulate(gradient)) {
      trace_.accumulate_into({gradient}, {info.gradient});
    } else {
      accumulate(trace_, {gradient}, {info.gradient});
    }
  }

  void check_same_type(ValueId a, ValueId b, ValueId target) const {
    MEGATRON_CHECK(program_.value(a).placement == program_.value(b).placement && program_.value(a).dtype == program_.value(b).dtype,
                   str_cat("the gradients of ", program_.label(target), " from two uses differ in type: ",
                           program_.type_text(a), " and ", program_.type_text(b),
                           "; enter the parallel region once, before the value is used twice"));
  }

  ParameterInfo& parameter_info(ValueId parameter) {
    for (ParameterInfo& p : program_.parameters) {
      if (p.value == parameter) return p;
    }
    fail_check(__FILE__, __LINE__, "parameter", program_.label(parameter) + " is not registered");
  }

  Program& program_;
  Trace trace_;
  std::vector<bool> wanted_;
  std::map<ValueId, Value> gradients_;
};

}  // namespace

void differentiate(Program& program) {
  Differentiator(program).run();
  verify(program);
}

}  // namespace megatron
