// Passes over a complete program: recompute, phase W, dead operations, verification.
#include <algorithm>
#include <map>

#include "base/check.h"
#include "base/strings.h"
#include "program/op_kind.h"
#include "program/passes.h"

namespace megatron {
namespace {

bool persistent(const ValueInfo& v) {
  return v.lifetime == Lifetime::kState || v.lifetime == Lifetime::kParameter;
}

}  // namespace

bool changes_state(const Program& program, const Op& op) {
  if (!op.kind->updates().empty()) return true;
  for (ValueId target : op.accumulate) {
    if (target != kNone && persistent(program.value(target))) return true;
  }
  return false;
}

namespace {

/// Emits the producers of dropped values again, each right before its first backward use.
class Recomputer {
 public:
  Recomputer(Program& program, std::vector<bool> dropped) : program_(program), dropped_(std::move(dropped)) {}

  void run() {
    for (Phase phase : {Phase::kBackward, Phase::kWeightGradient}) {
      list_.clear();
      const std::vector<OpId> before = program_.list(phase);
      for (OpId id : before) {
        std::vector<ValueId> operands = program_.op(id).operands, sums = program_.op(id).accumulate;
        for (ValueId& v : operands) v = again(v);
        for (ValueId& v : sums) v = again(v);
        program_.op(id).operands = std::move(operands);
        program_.op(id).accumulate = std::move(sums);
        list_.push_back(id);
      }
      program_.list(phase) = list_;
    }
  }

 private:
  /// The value to use in B instead of `v`.
  ValueId again(ValueId v) {
    if (v == kNone || static_cast<size_t>(v) >= dropped_.size() || !dropped_[static_cast<size_t>(v)]) return v;
    const auto found = remade_.find(v);
    if (found != remade_.end()) return found->second;
    emit_again(program_.value(v).producer);
    return remade_.at(v);
  }

  void emit_again(OpId id) {
    Op op = program_.op(id);
    for (ValueId& operand : op.operands) operand = again(operand);
    for (ValueId& sum : op.accumulate) sum = again(sum);
    op.recompute_of = id;
    const auto new_id = static_cast<OpId>(program_.ops.size());
    for (ValueId& result : op.results) {
      const auto fresh = static_cast<ValueId>(program_.values.size());
      ValueInfo info = program_.value(result);
      const ValueId old_root = info.storage.root;
      info.producer = new_id;
      info.storage.root = old_root == result ? fresh : root_of_view(op, result);
      program_.values.push_back(info);
      remade_[result] = fresh;
      result = fresh;
    }
    program_.ops.push_back(std::move(op));
    list_.push_back(new_id);
  }

  /// A re-emitted view lies in the memory of its re-emitted operand.
  ValueId root_of_view(const Op& op, ValueId view) {
    MEGATRON_CHECK(op.kind->is_view(), program_.label(view) + " shares memory but is no view");
    return program_.value(op.operands[0]).storage.root;
  }

  Program& program_;
  std::vector<bool> dropped_;  ///< per value of the program before the pass
  std::map<ValueId, ValueId> remade_;
  std::vector<OpId> list_;
};

/// Persistent memory that the micro-batch itself changes: what was read from it cannot be read again later.
std::vector<bool> changing_roots(const Program& program) {
  std::vector<bool> changing(program.values.size(), false);
  const auto mark = [&](ValueId v) { changing[static_cast<size_t>(program.value(v).storage.root)] = true; };
  for (const auto& list : program.lists) {
    for (OpId id : list) {
      const Op& op = program.op(id);
      for (int i : op.kind->updates()) mark(op.operands[static_cast<size_t>(i)]);
      for (ValueId target : op.accumulate) {
        if (target != kNone && persistent(program.value(target))) mark(target);
      }
    }
  }
  return changing;
}

bool reads_any(const Program& program, const Op& op, const std::vector<bool>& roots) {
  for (ValueId v : op.operands) {
    if (v != kNone && roots[static_cast<size_t>(program.value(v).storage.root)]) return true;
  }
  return false;
}

}  // namespace

int recompute(Program& program, const std::function<bool(const Program&, ValueId)>& drop) {
  std::vector<bool> dropped(program.values.size(), false);
  const std::vector<bool> changing = changing_roots(program);
  int count = 0;
  for (OpId id : program.list(Phase::kForward)) {
    const Op& op = program.op(id);
    if (changes_state(program, op) || reads_any(program, op, changing)) continue;
    if (op.kind->is_view()) {  // a view goes with the memory it lies in
      const bool gone = dropped[static_cast<size_t>(op.operands[0])];
      for (ValueId v : op.results) dropped[static_cast<size_t>(v)] = gone;
      continue;
    }
    for (ValueId v : op.results) {
      if (program.value(v).lifetime != Lifetime::kActivation || !drop(program, v)) continue;
      dropped[static_cast<size_t>(v)] = true;
      ++count;
    }
  }
  if (count > 0) Recomputer(program, std::move(dropped)).run();
  verify(program);
  return count;
}

void move_weight_gradients(Program& program) {
  std::vector<OpId> stay, move;
  std::vector<bool> late(program.values.size(), false);  // made in W, or changed there (persistent roots)
  for (OpId id : program.list(Phase::kBackward)) {
    const Op& op = program.op(id);
    bool moves = op.kind->is_weight_gradient();
    const auto root = [&](ValueId v) { return static_cast<size_t>(program.value(v).storage.root); };
    for (ValueId v : op.operands) moves = moves || (v != kNone && (late[static_cast<size_t>(v)] || late[root(v)]));
    for (ValueId v : op.accumulate) moves = moves || (v != kNone && late[static_cast<size_t>(v)]);
    for (ValueId v : op.results) late[static_cast<size_t>(v)] = moves;
    for (ValueId v : op.accumulate) {
      if (moves && v != kNone && persistent(program.value(v))) late[root(v)] = true;
    }
    for (int i : op.kind->updates()) {
      if (moves) late[root(op.operands[static_cast<size_t>(i)])] = true;
    }
    (moves ? move : stay).push_back(id);
  }
  program.list(Phase::kBackward) = std::move(stay);
  auto& weight = program.list(Phase::kWeightGradient);
  weight.insert(weight.end(), move.begin(), move.end());
  verify(program);
}

void remove_dead_ops(Program& program) {
  std::vector<bool> read(program.values.size(), false);
  for (const NamedValue& output : program.outputs) read[static_cast<size_t>(output.value)] = true;
  for (int phase = kPhases - 1; phase >= 0; --phase) {
    std::vector<OpId> kept;
    std::vector<OpId>& list = program.lists[static_cast<size_t>(phase)];
    for (auto it = list.rbegin(); it != list.rend(); ++it) {
      const Op& op = program.op(*it);
      bool needed = changes_state(program, op);
      for (ValueId v : op.results) needed = needed || read[static_cast<size_t>(v)];
      if (!needed) continue;
      for (ValueId v : op.operands) {
        if (v != kNone) read[static_cast<size_t>(v)] = true;
      }
      for (size_t i = 0; i < op.results.size(); ++i) {  // the sum so far is read only if the sum is
        const bool sum_read = read[static_cast<size_t>(op.results[i])];
        if (op.accumulate[i] != kNone && sum_read) read[static_cast<size_t>(op.accumulate[i])] = true;
      }
      kept.push_back(*it);
    }
    std::reverse(kept.begin(), kept.end());
    list = std::move(kept);
  }
  verify(program);
}

namespace {

void verify_op(const Program& program, OpId id, std::vector<bool>& made) {
  const Op& op = program.op(id);
  Operands operands;
  for (ValueId v : op.operands) {
    operands.push_back(v == kNone ? nullptr : &program.value(v));
    if (v == kNone) continue;
    const bool ready = program.value(v).producer == kNone || made[static_cast<size_t>(v)];
    MEGATRON_CHECK(ready,
                   str_cat("'", op.scope, "': ", op.kind->name(), " reads ", program.label(v), " before it is made"));
  }
  for (ValueId v : op.accumulate) {
    const bool ready = v == kNone || program.value(v).producer == kNone || made[static_cast<size_t>(v)];
    MEGATRON_CHECK(ready,
                   str_cat("'", op.scope, "': ", op.kind->name(), " adds to ", program.label(v), " before it is made"));
  }
  std::vector<ValueInfo> inferred;
  try {
    inferred = op.kind->infer(operands, program.mesh);
  } catch (const PlacementError& error) {
    fail_check(__FILE__, __LINE__, "verify", str_cat("'", op.scope, "': ", op.kind->name(), ": ", error.reason));
  }
  MEGATRON_CHECK(inferred.size() == op.results.size(), op.kind->name() + ": number of results changed");
  for (size_t i = 0; i < inferred.size(); ++i) {
    const ValueInfo& v = program.value(op.results[i]);
    const bool same =
        v.dtype == inferred[i].dtype && v.shape == inferred[i].shape && v.placement == inferred[i].placement;
    MEGATRON_CHECK(same, str_cat("'", op.scope, "': ", op.kind->name(), ": result ", i, " is recorded as ",
                                 program.type_text(op.results[i]), " but inferred otherwise"));
    made[static_cast<size_t>(op.results[i])] = true;
  }
}

}  // namespace

void verify(const Program& program) {
  std::vector<bool> made(program.values.size(), false);
  for (const auto& list : program.lists) {
    for (OpId id : list) verify_op(program, id, made);
  }
}

}  // namespace megatron
