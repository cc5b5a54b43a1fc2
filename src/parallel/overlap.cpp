#include "parallel/overlap.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "base/check.h"
#include "comm/buckets.h"
#include "parallel/gradient_buckets.h"
#include "program/op_kind.h"
#include "program/passes.h"

namespace megatron {
namespace {

using KindOf = std::shared_ptr<const OpKind> (*)(const OpKind&, size_t);

/// Operations of one list that become one.
struct Unit {
  std::string name;
  std::vector<OpId> ops;
};

/// The operations of the kind, in list order, those of one unit that follow each other together.
std::vector<Unit> units_of(const Program& program, const std::vector<OpId>& list, KindOf kind_of,
                           const UnitOf& unit_of) {
  std::vector<Unit> units;
  for (OpId id : list) {
    const Op& op = program.op(id);
    if (!kind_of(*op.kind, 1)) continue;
    const std::string name = unit_of(op.scope);
    if (units.empty() || units.back().name != name) units.push_back({name, {}});
    units.back().ops.push_back(id);
  }
  return units;
}

/// One operation in place of those of the unit; it is in no list yet.
OpId merge(Program& program, const Unit& unit, KindOf kind_of) {
  const auto id = static_cast<OpId>(program.ops.size());
  Op merged = program.op(unit.ops[0]);
  merged.scope = unit.name;
  merged.operands.clear();
  merged.results.clear();
  merged.accumulate.clear();
  for (OpId part : unit.ops) {
    const Op& op = program.op(part);
    merged.operands.insert(merged.operands.end(), op.operands.begin(), op.operands.end());
    merged.results.insert(merged.results.end(), op.results.begin(), op.results.end());
    merged.accumulate.insert(merged.accumulate.end(), op.accumulate.begin(), op.accumulate.end());
  }
  merged.kind = kind_of(*merged.kind, merged.operands.size());
  for (ValueId v : merged.results) program.value(v).producer = id;
  program.ops.push_back(std::move(merged));
  return id;
}

/// Gathers read parameters only, so they may stand anywhere before the first reader: at the first gather of their unit,
/// or of the unit before it.
void bucket_gathers(Program& program, Phase phase, const UnitOf& unit_of, bool ahead) {
  std::vector<OpId>& list = program.list(phase);
  const std::vector<Unit> units = units_of(program, list, all_gather_flat_of, unit_of);
  std::map<OpId, std::vector<OpId>> before;  // what comes in front of an operation that stands in the list
  std::set<OpId> gone;
  for (size_t i = 0; i < units.size(); ++i) {
    before[units[ahead && i > 0 ? i - 1 : i].ops[0]].push_back(merge(program, units[i], all_gather_flat_of));
    gone.insert(units[i].ops.begin(), units[i].ops.end());
  }
  std::vector<OpId> result;
  for (OpId id : list) {
    const auto found = before.find(id);
    if (found != before.end()) result.insert(result.end(), found->second.begin(), found->second.end());
    if (gone.count(id) == 0) result.push_back(id);
  }
  list = std::move(result);
}

bool reads_any(const Op& op, const std::set<ValueId>& values) {
  return std::any_of(op.operands.begin(), op.operands.end(), [&](ValueId v) { return values.count(v) > 0; });
}

/// Sums wait for the last of their unit, and what reads them waits for the sums.
void bucket_sums(Program& program, Phase phase, const UnitOf& unit_of, bool beside) {
  std::vector<OpId>& list = program.list(phase);
  const std::vector<Unit> units = units_of(program, list, reduce_scatter_flat_of, unit_of);
  std::map<OpId, OpId> at;  // the last of a unit, and what stands there instead
  std::set<OpId> gone;
  std::set<ValueId> sums;
  for (const Unit& unit : units) {
    gone.insert(unit.ops.begin(), unit.ops.end());
    at[unit.ops.back()] = merge(program, unit, reduce_scatter_flat_of);
    const std::vector<ValueId>& made = program.op(at[unit.ops.back()]).results;
    sums.insert(made.begin(), made.end());
  }
  std::vector<OpId> result, waiting;
  for (OpId id : list) {
    const auto found = at.find(id);
    if (found != at.end()) {
      result.push_back(found->second);
      result.insert(result.end(), waiting.begin(), waiting.end());
      waiting.clear();
    }
    if (gone.count(id) > 0) continue;
    Op& op = program.op(id);
    const bool reads = reads_any(op, sums);
    MEGATRON_CHECK(!reads || op.results.empty(), "the block of a gradient is read by " + op.kind->name());
    if (reads && beside) op.stream = Stream::kComm;
    // Sums whose operation is in the list already need not wait.
    const bool made =
        reads && std::find(result.begin(), result.end(), program.value(op.operands[0]).producer) != result.end();
    (reads && !made ? waiting : result).push_back(id);
  }
  MEGATRON_CHECK(waiting.empty(), "a sum of gradients is read before it is made");
  list = std::move(result);
}

/// Position in the list of the last operation that changes each of `roots`, and of the first that touches it.
struct Uses {
  std::map<ValueId, size_t> last_write, first_use;
};

Uses uses_of(const Program& program, const std::vector<OpId>& list) {
  Uses uses;
  for (size_t i = 0; i < list.size(); ++i) {
    const Op& op = program.op(list[i]);
    const auto root = [&](ValueId v) { return program.value(v).storage.root; };
    for (ValueId v : op.operands) {
      if (v != kNone && !op.kind->is_view()) uses.first_use.try_emplace(root(v), i);
    }
    for (ValueId v : op.accumulate) {
      if (v != kNone) uses.last_write[root(v)] = i;
    }
    for (int k : op.kind->updates()) uses.last_write[root(op.operands[static_cast<size_t>(k)])] = i;
  }
  return uses;
}

/// Inserts operations into a list; `at[i]` come before what stands at position i.
void insert(std::vector<OpId>& list, const std::map<size_t, std::vector<OpId>>& at) {
  std::vector<OpId> result;
  for (size_t i = 0; i <= list.size(); ++i) {
    const auto found = at.find(i);
    if (found != at.end()) result.insert(result.end(), found->second.begin(), found->second.end());
    if (i < list.size()) result.push_back(list[i]);
  }
  list = std::move(result);
}

/// Takes the operations that `emit` appends to the list away from it again; they run once per step.
template <typename Emit>
std::vector<OpId> emitted(Program& program, Phase phase, const Emit& emit) {
  std::vector<OpId>& list = program.list(phase);
  const size_t before = list.size();
  emit();
  std::vector<OpId> fresh(program.list(phase).begin() + static_cast<std::ptrdiff_t>(before), program.list(phase).end());
  program.list(phase).resize(before);
  for (OpId id : fresh) program.op(id).edge = true;
  return fresh;
}

/// Indices of parameters cut into buckets, in the order in which `position` gives them.
std::vector<std::vector<size_t>> buckets_by(const Program& train, const std::map<size_t, size_t>& position,
                                            int64_t elements) {
  std::vector<std::pair<size_t, size_t>> order;  // position, parameter
  for (const auto& [parameter, at] : position) order.emplace_back(at, parameter);
  std::sort(order.begin(), order.end());
  std::vector<std::vector<size_t>> buckets;
  int64_t filled = elements;
  for (const auto& [at, parameter] : order) {
    if (filled >= elements) {
      buckets.emplace_back();
      filled = 0;
    }
    buckets.back().push_back(parameter);
    filled += train.local_shape(train.parameters[parameter].value).numel();
  }
  return buckets;
}

/// Parameters that the ranks of dp hold as copies and update in blocks.
bool is_gathered_whole(const Program& train, const ParameterInfo& p) {
  const int dp = train.mesh.find(kDataAxis);
  return dp >= 0 && train.value(p.value).placement[static_cast<size_t>(dp)].replicated();
}

/// Gathers the updated blocks of such parameters in one operation.
void gather_whole(Trace& t, const DataParallel& data, const std::vector<Value>& parameters) {
  GatherBuckets buckets(t, data);
  for (Value p : parameters) buckets.add(flat_slice(t, p, kDataAxis), p);
  buckets.finish();
}

}  // namespace

void bucket_by_unit(Program& train, const DataParallel& data, const UnitOf& unit_of) {
  for (Phase phase : {Phase::kForward, Phase::kBackward}) {
    bucket_gathers(train, phase, unit_of, data.overlap_param_gather);
    bucket_sums(train, phase, unit_of, data.overlap_grad_reduce);
  }
  verify(train);
}

void overlap_gradient_sums(Program& train, const DataParallel& data) {
  const int dp = train.mesh.find(kDataAxis);
  if (dp < 0 || !data.overlap_grad_reduce) return;
  const Uses uses = uses_of(train, train.list(Phase::kBackward));
  const Uses early = uses_of(train, train.list(Phase::kForward));
  std::map<size_t, size_t> written;  // parameter, position after its last write
  for (size_t i = 0; i < train.parameters.size(); ++i) {
    const ValueId g = train.parameters[i].gradient;
    if (g == kNone || !train.value(g).placement[static_cast<size_t>(dp)].partial()) continue;
    const auto found = uses.last_write.find(g);
    if (found != uses.last_write.end()) {
      written[i] = found->second + 1;
    } else if (early.last_write.count(g) > 0) {
      written[i] = 0;  // a fused loss makes it in the forward
    }
  }
  Trace t(train, true);
  t.set_phase(Phase::kBackward);
  std::map<size_t, std::vector<OpId>> at;
  for (const std::vector<size_t>& bucket : buckets_by(train, written, data.bucket_elements)) {
    const std::vector<OpId> ops =
        emitted(train, Phase::kBackward, [&] { sum_gradients(t, train, bucket, kDataAxis, data); });
    std::vector<OpId>& there = at[written.at(bucket.back())];
    there.insert(there.end(), ops.begin(), ops.end());
  }
  insert(train.list(Phase::kBackward), at);
  verify(train);
}

void overlap_parameter_gathers(Program& train, const DataParallel& data) {
  if (!data.overlap_param_gather) return;
  const Uses uses = uses_of(train, train.list(Phase::kForward));
  std::map<size_t, size_t> read;
  for (size_t i = 0; i < train.parameters.size(); ++i) {
    const auto found = uses.first_use.find(train.parameters[i].value);
    if (!is_gathered_whole(train, train.parameters[i])) continue;
    read[i] = found == uses.first_use.end() ? 0 : found->second;
  }
  Trace t(train, true);
  std::map<size_t, std::vector<OpId>> at;
  size_t before = 0;  // where the first reader of the bucket before stands
  for (const std::vector<size_t>& bucket : buckets_by(train, read, data.bucket_elements)) {
    std::vector<Value> parameters;
    for (size_t i : bucket) parameters.push_back({train.parameters[i].value});
    const std::vector<OpId> ops = emitted(train, Phase::kForward, [&] { gather_whole(t, data, parameters); });
    at[before].insert(at[before].end(), ops.begin(), ops.end());
    before = read.at(bucket.front());
  }
  insert(train.list(Phase::kForward), at);
  verify(train);
}

Program make_gather_program(const Program& train, const DataParallel& data) {
  Program program;
  program.name = "gather";
  program.mesh = train.mesh;
  Trace t(program);
  GatherBuckets buckets(t, data);
  for (const ParameterInfo& p : train.parameters) {
    const ValueInfo& v = train.value(p.value);
    const Value whole = t.parameter(v.name, v.dtype, v.shape, v.placement, p.init);
    if (is_gathered_whole(train, p)) buckets.add(flat_slice(t, whole, kDataAxis), whole);
  }
  buckets.finish();
  verify(program);
  return program;
}

}  // namespace megatron
