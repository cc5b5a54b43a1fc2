#include "program/trace.h"

#include "base/check.h"
#include "base/strings.h"

namespace megatron {
namespace {

Operands operand_types(const Program& program, const std::vector<Value>& operands) {
  Operands types;
  for (Value v : operands) types.push_back(v ? &program.value(v.id) : nullptr);
  return types;
}

/// The message of a refused emit: module, kind, operands with placement and origin, reason, remedy.
std::string refusal(const Program& program, const std::string& scope, const OpKind& kind,
                    const std::vector<Value>& operands, const PlacementError& error) {
  std::string text = str_cat("module '", scope, "': ", kind.name(), " refuses its operands: ", error.reason);
  for (size_t i = 0; i < operands.size(); ++i) {
    text += str_cat("\n  operand ", i, ": ");
    if (!operands[i]) {
      text += "absent";
      continue;
    }
    const ValueInfo& v = program.value(operands[i].id);
    text += program.label(operands[i].id) + " " + program.type_text(operands[i].id);
    if (v.partial_origin != kNone) {
      const Op& origin = program.op(v.partial_origin);
      text += str_cat(" (made partial by ", origin.kind->name(), " in '", origin.scope, "')");
    }
  }
  return text + "\n  remedy: " + error.remedy;
}

bool any_partial(const Placement& placement) {
  for (const AxisPlacement& p : placement) {
    if (p.partial()) return true;
  }
  return false;
}

}  // namespace

Value Trace::declare(const ValueInfo& info) {
  const auto found = program_.by_name.find(info.name);
  if (found != program_.by_name.end()) {
    const ValueInfo& known = program_.value(found->second);
    const bool same = known.dtype == info.dtype && known.shape == info.shape && known.placement == info.placement &&
                      known.lifetime == info.lifetime;
    MEGATRON_CHECK(same, "'" + info.name + "' is declared twice with different types");
    return {found->second};
  }
  const auto id = static_cast<ValueId>(program_.values.size());
  program_.values.push_back(info);
  ValueInfo& v = program_.values.back();
  v.storage.root = id;
  v.storage.strides = contiguous_strides(program_.local_shape(id));
  program_.by_name[info.name] = id;
  return {id};
}

namespace {

/// The type of a value that is known by name.
ValueInfo named(const std::string& name, DType dtype, const Dims& shape, const Placement& placement, Lifetime lifetime,
                int sample_dim = -1) {
  ValueInfo info;
  info.name = name;
  info.dtype = dtype;
  info.shape = shape;
  info.placement = placement;
  info.lifetime = lifetime;
  info.sample_dim = sample_dim;
  return info;
}

}  // namespace

Value Trace::parameter(const std::string& name, DType dtype, const Dims& shape, const Placement& placement,
                       const Init& init) {
  const bool fresh = program_.by_name.count(name) == 0;
  const Value v = declare(named(name, dtype, shape, placement, Lifetime::kParameter));
  if (fresh) program_.parameters.push_back({v.id, kNone, init});
  return v;
}

Value Trace::state(const std::string& name, DType dtype, const Dims& shape, const Placement& placement) {
  return declare(named(name, dtype, shape, placement, Lifetime::kState));
}

Value Trace::input(const std::string& name, DType dtype, const Dims& shape, const Placement& placement,
                   int sample_dim) {
  return declare(named(name, dtype, shape, placement, Lifetime::kInput, sample_dim));
}

Value Trace::received(const std::string& name, DType dtype, const Dims& shape, const Placement& placement,
                      int sample_dim) {
  return declare(named(name, dtype, shape, placement, Lifetime::kReceived, sample_dim));
}

Value Trace::receive(const std::string& name, DType dtype, const Dims& shape, const Placement& placement,
                     int sample_dim) {
  const Value v = received(name, dtype, shape, placement, sample_dim);
  program_.received.push_back({name, v.id, kNone});
  return v;
}

void Trace::send(const std::string& name, Value v) {
  MEGATRON_CHECK(info(v).lifetime == Lifetime::kActivation && info(v).storage.root == v.id,
                 "a pipeline stage sends what one of its own operations made, not " + program_.label(v.id));
  program_.sent.push_back({name, v.id, kNone});
  output(name, v);
}

Value Trace::alias(const std::string& name, Value of, const Placement& placement) {
  const ValueInfo whole = info(of);
  MEGATRON_CHECK(whole.lifetime == Lifetime::kState || whole.lifetime == Lifetime::kParameter,
                 "'" + name + "': only persistent memory has other names");
  const auto found = program_.by_name.find(name);
  if (found != program_.by_name.end()) {
    const ValueInfo& known = program_.value(found->second);
    MEGATRON_CHECK(known.placement == placement && known.storage.root == whole.storage.root,
                   "'" + name + "' is declared twice with different types");
    return {found->second};
  }
  ValueInfo v = whole;
  v.name = name;
  v.placement = placement;
  v.lifetime = Lifetime::kState;
  v.storage.strides = contiguous_strides(megatron::local_shape(v.shape, placement, mesh()));
  if (!is_flat(whole.placement)) v.storage.offset += flat_range(v.shape, placement, mesh()).begin;
  const auto id = static_cast<ValueId>(program_.values.size());
  program_.values.push_back(v);
  program_.by_name[name] = id;
  return {id};
}

std::vector<Value> Trace::emit(std::shared_ptr<const OpKind> kind, const std::vector<Value>& operands) {
  std::vector<ValueInfo> inferred;
  try {
    inferred = kind->infer(operand_types(program_, operands), program_.mesh);
    for (size_t i = 0; i < operands.size() && !kind->is_view(); ++i) {
      if (!operands[i] || kind->takes_strided(static_cast<int>(i))) continue;
      const ValueInfo& v = info(operands[i]);
      if (!is_contiguous(program_.local_shape(operands[i].id), v.storage.strides)) {
        throw PlacementError{str_cat("operand ", i, " is a strided view, which this operation cannot read"),
                             "insert contiguous()"};
      }
    }
  } catch (const PlacementError& error) {
    fail_check(__FILE__, __LINE__, "emit", refusal(program_, scope_, *kind, operands, error));
  }
  const auto op_id = static_cast<OpId>(program_.ops.size());
  Op op;
  op.kind = std::move(kind);
  op.scope = scope_;
  for (Value v : operands) op.operands.push_back(v.id);
  std::vector<Value> results;
  for (ValueInfo& info : inferred) {
    const auto id = static_cast<ValueId>(program_.values.size());
    info.producer = op_id;
    if (any_partial(info.placement)) {
      info.partial_origin = op_id;
      for (Value v : operands) {  // keep the first op that made it partial
        if (v && program_.value(v.id).partial_origin != kNone)
          info.partial_origin = program_.value(v.id).partial_origin;
      }
    }
    program_.values.push_back(info);
    ValueInfo& stored = program_.values.back();
    if (stored.storage.root == kNone) {
      stored.storage.root = id;
      stored.storage.strides = contiguous_strides(program_.local_shape(id));
    }
    results.push_back({id});
    op.results.push_back(id);
    op.accumulate.push_back(kNone);
  }
  if (!op.kind->comm_axis().empty()) op.stream = Stream::kComm;
  program_.ops.push_back(std::move(op));
  program_.list(phase_).push_back(op_id);
  return results;
}

void Trace::accumulate_into(Value v, Value state) {
  const ValueInfo& value = info(v);
  MEGATRON_CHECK(value.producer != kNone, "only the result of an operation can accumulate");
  Op& op = program_.op(value.producer);
  for (size_t i = 0; i < op.results.size(); ++i) {
    if (op.results[i] != v.id) continue;
    MEGATRON_CHECK(op.kind->accumulates(static_cast<int>(i)), op.kind->name() + " cannot accumulate this result");
    MEGATRON_CHECK(op.accumulate[i] == kNone, op.kind->name() + " accumulates already");
    const ValueInfo& target = info(state);
    MEGATRON_CHECK(
        target.dtype == value.dtype && target.shape == value.shape,
        "accumulation of " + program_.type_text(v.id) + " into " + target.name + " " + program_.type_text(state.id));
    MEGATRON_CHECK(target.placement == value.placement,
                   str_cat("'", op.scope, "': ", op.kind->name(), " makes a ", program_.type_text(v.id), " but '",
                           target.name, "' is ", program_.type_text(state.id)));
    op.accumulate[i] = state.id;
    if (target.lifetime == Lifetime::kState) program_.value(v.id).storage = target.storage;
    return;
  }
}

BackwardContext::BackwardContext(Trace& trace, OpId op, std::vector<Value> result_gradients)
    : trace_(trace), op_(op), result_gradients_(std::move(result_gradients)) {}

Value BackwardContext::operand(int i) const {
  return {trace_.program().op(op_).operands[static_cast<size_t>(i)]};
}

Value BackwardContext::result(int i) const {
  return {trace_.program().op(op_).results[static_cast<size_t>(i)]};
}

bool BackwardContext::wants(int i) const {
  return wanted_[static_cast<size_t>(i)];
}

void BackwardContext::set(int i, Value gradient) {
  const Value target = operand(i);
  if (!gradient || !target || !wants(i)) return;
  contributions_.emplace_back(target.id, gradient.id);
}

}  // namespace megatron
