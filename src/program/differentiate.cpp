#include <map>

#include "base/check.h"
#include "base/strings.h"
#include "program/elementwise.h"
#include "program/passes.h"
#include "program/trace.h"

namespace megatron {

std::string gradient_name(const std::string& parameter) {
  return "gradient/" + parameter;
}

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
      add_gradient(loss.value, {loss.seed}, false);
    }
    for (Boundary& boundary : program_.sent) receive_gradient(boundary);
    const std::vector<OpId> forward = program_.list(Phase::kForward);
    for (auto it = forward.rbegin(); it != forward.rend(); ++it) visit(*it);
    trace_.set_scope("");
    for (Boundary& boundary : program_.received) send_gradient(boundary);
  }

 private:
  /// The stage behind gives the gradient of what it was sent, placed as that is.
  void receive_gradient(Boundary& boundary) {
    const ValueInfo v = program_.value(boundary.value);
    const Value gradient = trace_.received(gradient_name(boundary.name), v.dtype, v.shape, v.placement, v.sample_dim);
    boundary.gradient = gradient.id;
    add_gradient(boundary.value, gradient, false);
  }

  void send_gradient(Boundary& boundary) {
    const auto found = gradients_.find(boundary.value);
    MEGATRON_CHECK(found != gradients_.end(), "nothing depends on " + program_.label(boundary.value));
    const ValueId gradient = found->second.id;
    const ValueInfo &v = program_.value(boundary.value), &g = program_.value(gradient);
    MEGATRON_CHECK(g.placement == v.placement && g.dtype == v.dtype,
                   str_cat("the gradient of the boundary ", program_.label(boundary.value), " ",
                           program_.type_text(boundary.value), " is ", program_.type_text(gradient)));
    boundary.gradient = gradient;
    program_.outputs.push_back({gradient_name(boundary.name), gradient});
  }

  /// A value wants a gradient when it is a parameter, comes from another stage, or depends on one that does.
  void mark_wanted() {
    wanted_.assign(program_.values.size(), false);
    for (const Boundary& boundary : program_.received) wanted_[static_cast<size_t>(boundary.value)] = true;
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
    first_new_op_ = static_cast<OpId>(program_.ops.size());
    kind->backward(context);
    for (const auto& [target, gradient] : context.contributions()) {
      int uses = 0;
      for (const auto& other : context.contributions()) uses += other.second == gradient;
      contribute(target, gradient, uses == 1 && !is_read(gradient));
    }
  }

  /// Does an operation emitted by the last backward() read the value?
  bool is_read(ValueId v) const {
    for (size_t i = static_cast<size_t>(first_new_op_); i < program_.ops.size(); ++i) {
      for (ValueId operand : program_.ops[i].operands) {
        if (operand == v) return true;
      }
    }
    return false;
  }

  /// `sole`: nobody else uses the value, so that the operation that makes it may add it to something else instead.
  void contribute(ValueId target, ValueId gradient, bool sole) {
    if (program_.value(target).lifetime == Lifetime::kParameter) {
      add_to_parameter(target, gradient, sole);
    } else {
      add_gradient(target, {gradient}, sole);
    }
  }

  void add_gradient(ValueId target, Value gradient, bool sole) {
    const auto [place, fresh] = gradients_.try_emplace(target, gradient);
    if (fresh) return;
    const Value earlier = place->second;
    check_same_type(earlier.id, gradient.id, target);
    const bool in_place = sole && can_accumulate(gradient.id, earlier.id) && is_dense(earlier.id);
    place->second = in_place ? accumulate_on(gradient, earlier) : add(trace_, earlier, gradient);
  }

  /// Result `v` was made just now, by an operation that can add to `earlier` instead of overwriting.
  bool can_accumulate(ValueId v, ValueId earlier) const {
    const ValueInfo& info = program_.value(v);
    if (program_.value(earlier).producer >= info.producer) return false;  // the sum so far must be there when it runs
    if (info.producer < first_new_op_ && !is_fused_loss_result(v)) return false;
    if (info.producer == kNone || info.storage.root != v) return false;
    const Op& op = program_.op(info.producer);
    bool can = false;
    for (size_t i = 0; i < op.results.size(); ++i) {
      if (op.accumulate[i] == earlier) return false;  // two results of one operation cannot add to the same memory
      if (op.results[i] == v) can = op.kind->accumulates(static_cast<int>(i)) && op.accumulate[i] == kNone;
    }
    return can;
  }

  /// Fused losses make gradients in the forward: nobody has read them before.
  bool is_fused_loss_result(ValueId v) const {
    const OpId producer = program_.value(v).producer;
    if (producer == kNone) return false;
    for (const std::vector<OpId>& list : program_.lists) {
      for (OpId id : list) {
        for (ValueId operand : program_.op(id).operands) {
          if (operand == v) return false;
        }
      }
    }
    for (OpId id : program_.list(Phase::kForward)) {
      if (id == producer) return true;
    }
    return false;
  }

  bool is_dense(ValueId v) const { return is_contiguous(program_.local_shape(v), program_.value(v).storage.strides); }

  Value accumulate_on(Value gradient, Value earlier) {
    trace_.accumulate_into(gradient, earlier);
    return gradient;
  }

  void add_to_parameter(ValueId parameter, ValueId gradient, bool sole) {
    ParameterInfo& info = parameter_info(parameter);
    const ValueInfo g = program_.value(gradient);
    const DType dtype = accumulation_dtype(program_.value(parameter).dtype);
    if (info.gradient == kNone) {
      info.gradient = trace_.state(gradient_name(program_.value(parameter).name), dtype, g.shape, g.placement).id;
    }
    if (sole && g.dtype == dtype && can_accumulate(gradient, info.gradient)) {
      trace_.accumulate_into({gradient}, {info.gradient});
    } else {
      accumulate(trace_, {gradient}, {info.gradient});
    }
  }

  void check_same_type(ValueId a, ValueId b, ValueId target) const {
    MEGATRON_CHECK(
        program_.value(a).placement == program_.value(b).placement &&
            program_.value(a).dtype == program_.value(b).dtype,
        str_cat("the gradients of ", program_.label(target), " from two uses differ in type: ", program_.type_text(a),
                " and ", program_.type_text(b), "; enter the parallel region once, before the value is used twice"));
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
  OpId first_new_op_ = 0;  ///< operations from here on were emitted by the backward() that runs now
  std::map<ValueId, Value> gradients_;
};

}  // namespace

void differentiate(Program& program) {
  Differentiator(program).run();
  verify(program);
}

}  // namespace megatron
