#include "parallel/gradient_buckets.h"

#include <algorithm>

#include "base/check.h"
#include "base/strings.h"
#include "comm/buckets.h"
#include "program/passes.h"

namespace megatron {
namespace {

/// The gradient after it was summed over `axis`.
std::string reduced_name(const std::string& parameter, const std::string& axis) {
  return "reduced_" + axis + "/" + parameter;
}

/// dp first, because its blocks make less work for the others.
std::vector<std::string> reduction_axes(const Mesh& mesh) {
  std::vector<std::string> axes;
  for (const MeshAxis& axis : mesh.axes) axes.push_back(axis.name);
  std::stable_partition(axes.begin(), axes.end(), [](const std::string& name) { return name == kDataAxis; });
  return axes;
}

bool to_blocks(const std::string& axis, const DataParallel& data) {
  return axis == kDataAxis && data.sharding != Sharding::kNothing;
}

/// The memory of a gradient that is partial over `axis`, as it is after the sum.
Value declare_sum(Trace& t, Value partial, const std::string& parameter, const std::string& axis,
                  const DataParallel& data) {
  Placement placement = t.info(partial).placement;
  placement[static_cast<size_t>(t.mesh().find(axis))] = to_blocks(axis, data) ? AxisPlacement::F() : AxisPlacement::R();
  return t.alias(reduced_name(parameter, axis), partial, placement);
}

void emit_sums(Trace& t, const std::vector<Value>& partial, const std::vector<Value>& sums, const std::string& axis,
               const DataParallel& data) {
  if (partial.empty()) return;
  const bool bf16 =
      data.reduce_in_bf16 && std::find(std::begin(kDataAxes), std::end(kDataAxes), axis) != std::end(kDataAxes);
  (to_blocks(axis, data) ? reduce_scatter_into : all_reduce_into)(t, partial, sums, axis, bf16);
}

/// Sums over one axis what was not summed in the backward; the sums take the places of the partial values.
void reduce_over(Trace& t, const Program& train, const DataParallel& data, const std::string& axis,
                 std::vector<Value>& gradients) {
  const auto index = static_cast<size_t>(t.mesh().find(axis));
  std::vector<Value> partial, sums;
  int64_t elements = 0;
  const auto flush = [&] {
    emit_sums(t, partial, sums, axis, data);
    partial.clear();
    sums.clear();
    elements = 0;
  };
  for (size_t i = gradients.size(); i-- > 0;) {
    const Value before = gradients[i];
    if (!t.info(before).placement[index].partial()) continue;
    const std::string& parameter = train.value(train.parameters[i].value).name;
    gradients[i] = declare_sum(t, before, parameter, axis, data);
    if (train.by_name.count(reduced_name(parameter, axis)) > 0) continue;
    partial.push_back(before);
    sums.push_back(gradients[i]);
    elements += t.program().local_shape(before.id).numel();
    if (elements >= data.bucket_elements) flush();
  }
  flush();
}

}  // namespace

Value declare_state(Trace& t, const Program& from, ValueId id) {
  const ValueInfo& v = from.value(id);
  return t.state(v.name, v.dtype, v.shape, v.placement);
}

std::vector<Value> reduce_gradients(Trace& t, const Program& train, const DataParallel& data) {
  std::vector<Value> gradients;
  for (const ParameterInfo& p : train.parameters) {
    MEGATRON_CHECK(p.gradient != kNone,
                   "parameter " + train.label(p.value) + " has no gradient: nothing depends on it");
    gradients.push_back(declare_state(t, train, p.gradient));
  }
  Trace::Scope scope(t, "gradients");
  for (const std::string& axis : reduction_axes(t.mesh())) reduce_over(t, train, data, axis, gradients);
  return gradients;
}

void declare_sums_of(Trace& t, const Program& from, const ParameterInfo& parameter, Value gradient) {
  for (const std::string& axis : reduction_axes(from.mesh)) {
    const std::string name = reduced_name(from.value(parameter.value).name, axis);
    const auto found = from.by_name.find(name);
    if (found != from.by_name.end()) gradient = t.alias(name, gradient, from.value(found->second).placement);
  }
}

void sum_gradients(Trace& t, const Program& train, const std::vector<size_t>& parameters, const std::string& axis,
                   const DataParallel& data) {
  std::vector<Value> partial, sums;
  for (size_t i : parameters) {
    const std::string name = train.value(train.parameters[i].value).name;
    partial.push_back({train.parameters[i].gradient});
    sums.push_back(declare_sum(t, partial.back(), name, axis, data));
  }
  Trace::Scope scope(t, "gradients");
  emit_sums(t, partial, sums, axis, data);
}

Value GatherBuckets::own_part(Value whole, const Placement& placement) {
  const Placement& held = t_.info(whole).placement;
  for (size_t axis = 0; axis < held.size(); ++axis) {
    if (held[axis].replicated() && placement[axis].flat()) return flat_slice(t_, whole, t_.mesh().axes[axis].name);
  }
  return whole;
}

void GatherBuckets::add(Value part, Value whole) {
  if (part == whole) return;
  parts_.push_back(part);
  wholes_.push_back(whole);
  elements_ += t_.program().local_shape(whole.id).numel();
  if (elements_ >= data_.bucket_elements) finish();
}

void GatherBuckets::finish() {
  if (parts_.empty()) return;
  Trace::Scope scope(t_, "parameters");
  all_gather_into(t_, parts_, wholes_, kDataAxis);
  parts_.clear();
  wholes_.clear();
  elements_ = 0;
}

}  // namespace megatron
