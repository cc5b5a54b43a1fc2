// Resolves views, joins, accumulation and in-place results to roots, and lifetimes of roots to offsets.
#include <algorithm>
#include <limits>

#include "base/check.h"
#include "base/strings.h"
#include "program/elementwise.h"
#include "program/plan.h"
#include "program/views.h"

namespace megatron {
namespace {

constexpr int kForever = std::numeric_limits<int>::max();
constexpr int kNever = -1;

struct Interval {
  int first = kForever, last = kNever;  ///< positions in the timeline F, B, W
  bool empty() const { return last == kNever; }
  bool overlaps(const Interval& other) const { return first <= other.last && other.first <= last; }
  void extend(int position) {
    first = std::min(first, position);
    last = std::max(last, position);
  }
};

/// One piece of memory to place.
struct Piece {
  Interval life;
  int64_t bytes = 0;
  Slot* slot = nullptr;
};

/// Greedy by size: the largest first, each at the lowest offset that is free during its life. Within a few per cent of
/// optimal for the stack-like lifetimes of a training step (Pisarchyk and Lee, arXiv 2001.03288).
int64_t place(std::vector<Piece>& pieces, bool reuse) {
  std::stable_sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return a.bytes > b.bytes; });
  std::vector<const Piece*> placed;  // sorted by offset
  int64_t total = 0;
  for (Piece& piece : pieces) {
    int64_t offset = 0;
    for (const Piece* other : placed) {
      if (reuse && !piece.life.overlaps(other->life)) continue;
      if (offset + piece.bytes <= other->slot->offset) break;
      offset = std::max(offset, other->slot->offset + other->bytes);
    }
    piece.slot->offset = offset;
    total = std::max(total, offset + piece.bytes);
    const auto where = std::upper_bound(placed.begin(), placed.end(), offset,
                                        [](int64_t at, const Piece* p) { return at < p->slot->offset; });
    placed.insert(where, &piece);
  }
  return total;
}

class Packer {
 public:
  explicit Packer(Plan& plan) : plan_(plan), program_(plan.program) {}

  void run() {
    build_timeline();
    count_uses();
    if (plan_.options.reuse) {
      for (size_t i = 0; i < timeline_.size(); ++i) redirect_join(timeline_[i]);
      count_uses();
    }
    for (size_t i = 0; i < timeline_.size(); ++i) merge_in_place(timeline_[i], static_cast<int>(i));
    count_uses();
    mark_unread();
    if (plan_.options.reuse) free_streams();
    allocate();
  }

 private:
  void build_timeline() {
    int position = 0;
    for (size_t phase = 0; phase < kPhases; ++phase) {
      phase_begin_[phase] = position;
      for (OpId id : program_.lists[phase]) timeline_.push_back(id);
      position = static_cast<int>(timeline_.size());
    }
  }

  int phase_of(int position) const {
    int phase = 0;
    while (phase + 1 < kPhases && position >= phase_begin_[static_cast<size_t>(phase + 1)]) ++phase;
    return phase;
  }

  ValueId root(ValueId v) const { return program_.value(v).storage.root; }
  Interval& life(ValueId v) { return life_[static_cast<size_t>(root(v))]; }

  void count_uses() {
    life_.assign(program_.values.size(), {});
    beside_until_.assign(timeline_.size(), -1);
    reads_.assign(program_.values.size(), 0);
    family_.assign(program_.values.size(), {});
    std::vector<bool> seen(program_.values.size(), false);
    const auto join_family = [&](ValueId v) {
      if (seen[static_cast<size_t>(v)]) return;
      seen[static_cast<size_t>(v)] = true;
      family_[static_cast<size_t>(root(v))].push_back(v);
    };
    for (size_t i = 0; i < timeline_.size(); ++i) {
      const Op& op = program_.op(timeline_[i]);
      for (ValueId v : op.operands) {
        if (v == kNone) continue;
        join_family(v);
        if (op.kind->is_view()) continue;
        life(v).extend(static_cast<int>(i));
        ++reads_[static_cast<size_t>(root(v))];
      }
      for (size_t r = 0; r < op.results.size(); ++r) {
        join_family(op.results[r]);
        if (!op.kind->is_view()) life(op.results[r]).extend(static_cast<int>(i));
        if (op.accumulate[r] == kNone) continue;
        life(op.accumulate[r]).extend(static_cast<int>(i));
        ++reads_[static_cast<size_t>(root(op.accumulate[r]))];
      }
    }
    count_boundaries();
    extend_beside();
    for (const NamedValue& output : program_.outputs) {
      join_family(output.value);
      life(output.value).extend(kForever);
      ++reads_[static_cast<size_t>(root(output.value))];
    }
  }

  /// What another stage sends is there from the start of the phase that reads it.
  void count_boundaries() {
    for (const Boundary& boundary : program_.received) life(boundary.value).extend(phase_begin_[0]);
    for (const Boundary& boundary : program_.sent) {
      if (boundary.gradient != kNone) life(boundary.gradient).extend(phase_begin_[1]);
    }
  }

  bool runs_beside(int position) const {
    return program_.op(timeline_[static_cast<size_t>(position)]).stream != Stream::kCompute;
  }
  bool is_view(int position) const { return program_.op(timeline_[static_cast<size_t>(position)]).kind->is_view(); }

  /// Memory that an operation beside the computing stream uses is not given to the operations that run meanwhile: they
  /// would wait for it. It is free where computing waits for that stream anyway, because it reads what came later
  /// there; or else where the next run of such operations begins.
  void extend_beside() {
    const auto size = static_cast<int>(timeline_.size());
    std::vector<int> made_beside(program_.values.size(), -1);  // per root: position of the operation that made it
    for (int i = 0; i < size; ++i) {
      if (!runs_beside(i)) continue;
      for (ValueId v : program_.op(timeline_[static_cast<size_t>(i)]).results)
        made_beside[static_cast<size_t>(root(v))] = i;
    }
    for (int i = 0; i < size; ++i) {
      if (!runs_beside(i)) continue;
      bool run_over = false;
      int j = i + 1;
      for (; j < size && phase_of(j) == phase_of(i); ++j) {
        if (is_view(j)) continue;
        if (runs_beside(j)) {
          if (run_over) break;
          continue;
        }
        run_over = true;
        if (reads_made_since(j, i, made_beside)) break;
      }
      keep_until(i, j - 1);
    }
  }

  bool reads_made_since(int position, int since, const std::vector<int>& made_beside) const {
    for (ValueId v : program_.op(timeline_[static_cast<size_t>(position)]).operands) {
      if (v != kNone && made_beside[static_cast<size_t>(root(v))] >= since) return true;
    }
    return false;
  }

  void keep_until(int position, int last) {
    const Op& op = program_.op(timeline_[static_cast<size_t>(position)]);
    for (const std::vector<ValueId>* values : {&op.operands, &op.results, &op.accumulate}) {
      for (ValueId v : *values) {
        if (v != kNone) life(v).extend(last);
      }
    }
    beside_until_[static_cast<size_t>(position)] = last;
  }

  /// Lets the producers of a join's parts write into the joined memory, where they can write strided.
  void redirect_join(OpId id) {
    JoinInfo join_info;
    const Op& op = program_.op(id);
    if (!is_join(*op.kind, &join_info)) return;
    const ValueInfo joined = program_.value(op.results[0]);
    for (size_t i = 0; i < op.operands.size(); ++i) {
      if (op.operands[i] == kNone) continue;
      redirect_part(op.operands[i], joined,
                    joined.storage.offset + join_info.offsets[i] * joined.storage.strides[join_info.dim]);
    }
  }

  void redirect_part(ValueId part, const ValueInfo& joined, int64_t offset) {
    const ValueId source = root(part);
    const ValueInfo& info = program_.value(source);
    if (info.lifetime != Lifetime::kActivation || info.producer == kNone) return;
    if (reads_[static_cast<size_t>(source)] != 1) return;  // somebody else reads it
    const Op& producer = program_.op(info.producer);
    bool may_stride = false;
    for (size_t r = 0; r < producer.results.size(); ++r) {
      if (producer.results[r] != source) continue;
      if (producer.accumulate[r] != kNone) return;
      may_stride = producer.kind->gives_strided(static_cast<int>(r));
    }
    const Dims part_shape = program_.local_shape(part);
    // Rows that follow each other in the joined memory are as good as memory of their own, where they are aligned.
    const int64_t alignment = plan_.options.device == DeviceKind::kCpu ? 1 : Device::kAlignment;
    const bool dense =
        is_contiguous(part_shape, joined.storage.strides) && offset * size_of(joined.dtype) % alignment == 0;
    if (!may_stride && !dense) return;
    std::vector<std::pair<ValueId, Dims>> strides;
    try {
      for (ValueId v : family_[static_cast<size_t>(source)]) {
        if (program_.local_shape(v).numel() != part_shape.numel() || program_.value(v).storage.offset != 0) return;
        strides.emplace_back(v, reshaped_strides(part_shape, joined.storage.strides, program_.local_shape(v)));
      }
    } catch (const PlacementError&) {
      return;  // not a view of the joined memory: the join copies
    }
    std::vector<ValueId>& family = family_[static_cast<size_t>(joined.storage.root)];
    for (auto& [v, s] : strides) {
      program_.value(v).storage = {joined.storage.root, offset, s};
      family.push_back(v);  // so that the whole does not move away from its parts
    }
  }

  /// A result that accumulates, or may overwrite an operand, takes over memory whose last use is this operation.
  void merge_in_place(OpId id, int position) {
    const Op& op = program_.op(id);
    for (size_t r = 0; r < op.results.size(); ++r) {
      const ValueId result = op.results[r];
      if (op.accumulate[r] != kNone) {
        take_over(op, result, op.accumulate[r], kNone, position);
      } else if (plan_.options.reuse && op.kind->overwrites(static_cast<int>(r)) != kNone) {
        const ValueId operand = op.operands[static_cast<size_t>(op.kind->overwrites(static_cast<int>(r)))];
        if (operand != kNone) take_over(op, result, operand, operand, position);
      }
    }
  }

  /// `readable`: the operand that the kernel may read while it writes the result over it, or kNone.
  void take_over(const Op& op, ValueId result, ValueId from, ValueId readable, int position) {
    const ValueId old_root = root(result), new_root = root(from);
    if (old_root == new_root || old_root != result) return;
    for (ValueId v : op.operands) {  // another operand in the same memory would be overwritten while it is read
      if (v != kNone && v != readable && root(v) == new_root) return;
    }
    for (ValueId v : op.results) {  // another result has it already
      if (root(v) == new_root) return;
    }
    const ValueInfo& memory = program_.value(new_root);
    if (memory.lifetime != Lifetime::kActivation || life_[static_cast<size_t>(new_root)].last != position) return;
    const ValueInfo& source = program_.value(from);
    const bool same = source.storage.offset == 0 && is_contiguous(program_.local_shape(from), source.storage.strides) &&
                      program_.local_bytes(from) == program_.local_bytes(new_root) &&
                      program_.local_bytes(result) == program_.local_bytes(new_root) &&
                      size_of(program_.value(result).dtype) == size_of(memory.dtype);
    if (!same) return;
    for (ValueId v : family_[static_cast<size_t>(old_root)]) {
      program_.value(v).storage.root = new_root;
      family_[static_cast<size_t>(new_root)].push_back(v);
    }
    Interval& merged = life_[static_cast<size_t>(new_root)];
    merged.first = std::min(merged.first, life_[static_cast<size_t>(old_root)].first);
    merged.last = std::max(merged.last, life_[static_cast<size_t>(old_root)].last);
  }

  /// Operations beside the computing stream run earlier or later than the list says: their memory is theirs from the
  /// operation that lets them begin to the one that waits for them, so that reuse does not tie the streams together.
  void free_streams() {
    for (size_t phase = 0; phase < kPhases; ++phase) {
      const int begin = phase_begin_[phase];
      const int end = phase + 1 < kPhases ? phase_begin_[phase + 1] : static_cast<int>(timeline_.size());
      int before = begin;  // the operation before it on its stream
      for (int i = begin; i < end; ++i) {
        const Op& op = program_.op(timeline_[static_cast<size_t>(i)]);
        if (op.stream == Stream::kCompute || op.kind->is_view()) continue;
        int first = i, last = i;
        while (first > before && !shares_memory(timeline_[static_cast<size_t>(first - 1)], op.operands)) --first;
        while (last + 1 < end && !shares_memory(timeline_[static_cast<size_t>(last)], op.results)) ++last;
        for (ValueId v : op.operands) hold(v, std::max(first - 1, begin), last);
        for (ValueId v : op.results) hold(v, std::max(first - 1, begin), last);
        before = i;
      }
    }
  }

  void hold(ValueId v, int first, int last) {
    if (v == kNone || program_.value(root(v)).lifetime != Lifetime::kActivation || life(v).empty()) return;
    life(v).extend(first);
    life(v).extend(last);
  }

  /// Does an operation of the computing stream touch elements of `values`?
  bool shares_memory(OpId id, const std::vector<ValueId>& values) const {
    const Op& op = program_.op(id);
    JoinInfo info;
    if (op.stream != Stream::kCompute || op.kind->is_view() || is_join(*op.kind, &info)) return false;
    for (const std::vector<ValueId>* touched : {&op.operands, &op.results}) {
      for (ValueId a : *touched) {
        for (ValueId b : values) {
          if (a != kNone && b != kNone && root(a) == root(b) && ranges_overlap(a, b)) return true;
        }
      }
    }
    return false;
  }

  bool ranges_overlap(ValueId a, ValueId b) const {
    const auto [a_first, a_last] = reach_of(program_, a);
    const auto [b_first, b_last] = reach_of(program_, b);
    return a_first <= b_last && b_first <= a_last;
  }

  void mark_unread() {
    plan_.unread.assign(program_.values.size(), false);
    for (OpId id : timeline_) {
      for (ValueId v : program_.op(id).results) {
        const ValueId r = root(v);
        const bool activation = program_.value(r).lifetime == Lifetime::kActivation;
        plan_.unread[static_cast<size_t>(v)] = activation && reads_[static_cast<size_t>(r)] == 0;
      }
    }
  }

  Region region_of(ValueId r) const {
    const bool own_slots = plan_.options.own_slots || plan_.options.slot_sets > 1;
    switch (program_.value(r).lifetime) {
      case Lifetime::kParameter:
      case Lifetime::kState:
        return Region::kPersistent;
      case Lifetime::kInput:
        return Region::kInput;
      case Lifetime::kReceived:
        return Region::kSlot;
      case Lifetime::kActivation:
        break;
    }
    const Interval& l = life_[static_cast<size_t>(r)];
    const bool crosses = l.last == kForever || phase_of(l.first) != phase_of(l.last);
    return crosses && own_slots ? Region::kSlot : Region::kTransient;
  }

  void allocate() {
    plan_.slots.assign(program_.values.size(), {});
    plan_.workspaces.assign(program_.ops.size(), {});
    std::vector<Piece> slot_pieces, transient_pieces;
    for (size_t i = 0; i < program_.values.size(); ++i) {
      const auto id = static_cast<ValueId>(i);
      if (root(id) != id) continue;
      Slot& slot = plan_.slots[i];
      slot.region = region_of(id);
      slot.bytes = round_up(program_.local_bytes(id), Device::kAlignment);
      if (slot.region == Region::kInput) {
        slot.offset = plan_.input_bytes;
        plan_.input_bytes += slot.bytes;
        continue;
      }
      const bool used = !life_[i].empty() && !plan_.unread[i];
      if (slot.region == Region::kPersistent || !used) continue;
      (slot.region == Region::kSlot ? slot_pieces : transient_pieces).push_back({life_[i], slot.bytes, &slot});
    }
    for (size_t i = 0; i < timeline_.size(); ++i) {
      const Op& op = program_.op(timeline_[i]);
      if (op.kind->is_view()) continue;
      const OpShapes shapes = shapes_of(program_, op);
      Slot& slot = plan_.workspaces[static_cast<size_t>(timeline_[i])];
      slot.bytes = round_up(op.kind->workspace(shapes.context(), plan_.options.device), Device::kAlignment);
      const int last = std::max(static_cast<int>(i), beside_until_[i]);
      if (slot.bytes > 0) transient_pieces.push_back({{static_cast<int>(i), last}, slot.bytes, &slot});
    }
    plan_.slot_bytes = place(slot_pieces, plan_.options.reuse);
    plan_.transient_bytes = place(transient_pieces, plan_.options.reuse);
  }

  Plan& plan_;
  Program& program_;
  std::vector<OpId> timeline_;
  std::array<int, kPhases> phase_begin_{};
  std::vector<Interval> life_;                ///< per root
  std::vector<int> reads_;                    ///< per root
  std::vector<int> beside_until_;             ///< per position: how long an operation beside may run
  std::vector<std::vector<ValueId>> family_;  ///< values that lie in a root's memory
};

}  // namespace

std::pair<int64_t, int64_t> reach_of(const Program& program, ValueId v) {
  const Storage& storage = program.value(v).storage;
  const Dims shape = program.local_shape(v);
  int64_t first = storage.offset, last = storage.offset;
  for (int d = 0; d < shape.rank(); ++d) {
    const int64_t reach = (shape[d] - 1) * storage.strides[d];
    (reach < 0 ? first : last) += reach;
  }
  return {first, last};
}

bool joins_in_place(const Plan& plan, OpId id) {
  JoinInfo info;
  const Op& op = plan.program.op(id);
  if (!is_join(*op.kind, &info)) return false;
  const Storage& whole = plan.program.value(op.results[0]).storage;
  for (size_t i = 0; i < op.operands.size(); ++i) {
    if (op.operands[i] == kNone) return false;
    const Storage& part = plan.program.value(op.operands[i]).storage;
    if (part.root != whole.root || part.offset != whole.offset + info.offsets[i] * whole.strides[info.dim])
      return false;
  }
  return true;
}

Plan pack(Program program, const PackOptions& options) {
  MEGATRON_CHECK(options.slot_sets >= 1, "a plan has at least one slot set");
  MEGATRON_CHECK(options.own_slots || (program.received.empty() && program.sent.empty()),
                 "boundary values of a pipeline stage lie in slot sets");
  Plan plan;
  plan.program = std::move(program);
  plan.options = options;
  Packer(plan).run();
  derive_events(plan);
  return plan;
}

}  // namespace megatron
