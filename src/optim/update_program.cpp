#include "optim/update_program.h"

#include <map>

#include "base/check.h"
#include "base/error.h"
#include "base/strings.h"
#include "kernels/adamw/adamw.h"
#include "kernels/cast/cast.h"
#include "kernels/gradient_norm/gradient_norm.h"
#include "kernels/sgd/sgd.h"
#include "parallel/gradient_buckets.h"
#include "parallel/group_sum.h"
#include "program/elementwise.h"
#include "program/passes.h"
#include "program/trace.h"

namespace megatron {

std::string update_io::learning_rate(const ParamGroup& group) {
  return "learning_rate/" + group.label();
}

std::string update_io::total(const std::string& sum) {
  return "total/" + sum;
}

namespace optimizer_state {
std::string master(const std::string& parameter) {
  return "optimizer.state.fp32_param." + parameter;
}
std::string exp_avg(const std::string& parameter) {
  return "optimizer.state.exp_avg." + parameter;
}
std::string exp_avg_sq(const std::string& parameter) {
  return "optimizer.state.exp_avg_sq." + parameter;
}
std::string momentum(const std::string& parameter) {
  return "optimizer.state.momentum_buffer." + parameter;
}
bool is_optimizer_state(const std::string& name) {
  return starts_with(name, "optimizer.state.");
}
}  // namespace optimizer_state

namespace {

class UpdateBuilder {
 public:
  UpdateBuilder(Program& program, const Program& train, const OptimizerConfig& config, const DataParallel& data,
                const std::string& stages)
      : t_(program), train_(train), config_(config), data_(data), stages_(stages) {}

  void build(const std::vector<ParamGroup>& groups, const std::vector<std::string>& sums) {
    const Placement everywhere = t_.replicated();
    weight_decay_ = t_.input(update_io::kWeightDecay, DType::kF64, {}, everywhere);
    count_ = t_.input(update_io::kUpdateCount, DType::kF64, {}, everywhere);
    const Value inverse_scale = t_.input(update_io::kInverseScale, DType::kF64, {}, everywhere);
    const std::vector<Value> gradients = reduce_gradients(t_, train_, data_);
    sum_copies(gradients);
    clip_ = clip_gradients(t_, sums_of_squares(gradients), inverse_scale, config_.clip_grad,
                           t_.state(update_io::kHalt, DType::kF64, {}, everywhere));
    t_.output(update_io::kNorm, clip_.norm);
    t_.output(update_io::kCoefficient, clip_.coefficient);
    t_.output(update_io::kSkip, clip_.skip);
    for (const std::string& name : sums) {
      t_.output(update_io::total(name),
                over_stages(reduce_partial(t_, declare_state(t_, train_, train_.by_name.at(name)))));
    }
    std::vector<std::pair<const ParamGroup*, Value>> settings(gradients.size());
    for (const ParamGroup& group : groups) {
      const Value lr = t_.input(update_io::learning_rate(group), DType::kF64, {}, everywhere);
      for (int64_t i : group.params) settings[static_cast<size_t>(i)] = {&group, lr};
    }
    // In the order of the parameters, so that gathering begins with those that the next forward reads first.
    GatherBuckets buckets(t_, data_);
    for (size_t i = 0; i < gradients.size(); ++i) {
      const auto& [group, lr] = settings[i];
      MEGATRON_CHECK(group != nullptr, train_.label(train_.parameters[i].value) + " is in no group of parameters");
      update(train_.parameters[i], gradients[i], *group, lr, buckets);
    }
    buckets.finish();
  }

 private:
  /// Gradients of parameters that several stages hold. They come after the sums within a stage, because a backward may
  /// have made those already, and because a block is less to send than all of a gradient.
  void sum_copies(const std::vector<Value>& gradients) {
    for (size_t i = 0; i < gradients.size(); ++i) {
      const ParameterInfo& p = train_.parameters[i];
      if (p.sum_group.empty()) continue;
      Trace::Scope scope(t_, train_.value(p.value).name);
      group_sum_in_place(t_, gradients[i], p.sum_group);
    }
  }

  Value over_stages(Value x) { return stages_.empty() ? x : group_sum(t_, x, stages_); }

  /// One sum per set of sharded axes, each reduced over them: an element counts once, on however many ranks it lies.
  /// With stages one sum of all that they hold.
  std::vector<Value> sums_of_squares(const std::vector<Value>& gradients) {
    std::map<std::vector<bool>, std::vector<Value>> by_axes;
    for (size_t i = 0; i < gradients.size(); ++i) {
      if (!train_.parameters[i].owner) continue;
      const Value g = gradients[i];
      std::vector<bool> sharded;
      for (const AxisPlacement& p : t_.info(g).placement) sharded.push_back(p.cuts());
      by_axes[sharded].push_back(g);
    }
    std::vector<Value> sums;
    for (const auto& [sharded, group] : by_axes) sums.push_back(reduce_partial(t_, sum_of_squares(t_, group)));
    if (stages_.empty()) return sums;
    MEGATRON_CHECK(!sums.empty(), "a pipeline stage has no parameters of its own");
    Value sum = sums[0];
    for (size_t i = 1; i < sums.size(); ++i) sum = add(t_, sum, sums[i]);
    return {over_stages(sum)};
  }

  void update(const ParameterInfo& info, Value gradient, const ParamGroup& group, Value lr, GatherBuckets& buckets) {
    const ValueInfo& p = train_.value(info.value);
    Trace::Scope scope(t_, p.name);
    const Placement placement = t_.info(gradient).placement;
    const Value whole = t_.parameter(p.name, p.dtype, p.shape, p.placement, info.init);
    const Value param = buckets.own_part(whole, placement);
    const DType state_dtype = accumulation_dtype(p.dtype);
    const auto state = [&](const std::string& name) { return t_.state(name, state_dtype, p.shape, placement); };
    const Value master = state_dtype != p.dtype ? state(optimizer_state::master(p.name)) : Value{};
    if (config_.optimizer == "adam") {
      AdamWOptions options{config_.adam_beta1, config_.adam_beta2, config_.adam_eps, group.wd_multiplier};
      adamw(t_,
            {param, master, state(optimizer_state::exp_avg(p.name)), state(optimizer_state::exp_avg_sq(p.name)),
             gradient, lr, weight_decay_, clip_.coefficient, clip_.skip, count_},
            options);
    } else if (config_.optimizer == "sgd") {
      sgd(t_,
          {param, master, config_.sgd_momentum > 0 ? state(optimizer_state::momentum(p.name)) : Value{}, gradient, lr,
           weight_decay_, clip_.coefficient, clip_.skip, count_},
          {config_.sgd_momentum, group.wd_multiplier});
    } else {
      throw UsageError("optimizer.optimizer: '" + config_.optimizer + "' is not supported; use adam or sgd");
    }
    if (!data_.overlap_param_gather) buckets.add(param, whole);
  }

  Trace t_;
  const Program& train_;
  const OptimizerConfig& config_;
  const DataParallel& data_;
  const std::string stages_;
  Value weight_decay_, count_;
  ClipResult clip_;
};

}  // namespace

Program make_begin_program(const Program& train, const std::vector<std::string>& sums) {
  Program program;
  program.name = "begin";
  program.mesh = train.mesh;
  Trace t(program);
  for (const ParameterInfo& p : train.parameters) {
    if (p.gradient != kNone) zero(t, declare_state(t, train, p.gradient));
  }
  for (const std::string& name : sums) zero(t, declare_state(t, train, train.by_name.at(name)));
  verify(program);
  return program;
}

Program make_update_program(const Program& train, const OptimizerConfig& config, const std::vector<ParamGroup>& groups,
                            const std::vector<std::string>& sums, const DataParallel& data, const std::string& stages) {
  Program program;
  program.name = "update";
  program.mesh = train.mesh;
  UpdateBuilder(program, train, config, data, stages).build(groups, sums);
  verify(program);
  return program;
}

}  // namespace megatron
