// Watches a plan the way a debugger watches memory: every 8-byte word of the arenas remembers which value was written
// there last. Lifetimes are not consulted: whoever reads must find the words of the value that it reads.
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/strings.h"
#include "program/elementwise.h"
#include "tests/program/rig.h"

namespace megatron::tiny {

class MemoryCheck {
 public:
  explicit MemoryCheck(const Plan& plan) : plan_(plan), program_(plan.program) {}

  /// Problems of one run of a phase on a slot set, appended to problems().
  void run(Phase phase, int slot_set) {
    for (OpId id : program_.list(phase)) {
      if (!program_.op(id).kind->is_view()) run_op(id, slot_set);
    }
  }
  void host_writes_inputs(int slot_set) {
    for (const auto& [name, id] : program_.by_name) {
      if (program_.value(id).lifetime == Lifetime::kInput) write(words(id, slot_set), id, slot_set);
    }
  }
  void host_reads_outputs(int slot_set) {
    for (const NamedValue& output : program_.outputs) read(output.value, slot_set, "output " + output.name);
  }
  const std::vector<std::string>& problems() const { return problems_; }

 private:
  using Word = std::pair<int64_t, int64_t>;  ///< (memory, index): memory is a region, or a persistent value
  using Words = std::vector<Word>;

  /// The value whose producer wrote the words of `v`: views look through to what they show.
  ValueId source(ValueId v) const {
    for (;;) {
      const OpId producer = program_.value(v).producer;
      if (producer == kNone || !program_.op(producer).kind->is_view()) return v;
      v = program_.op(producer).operands[0];
    }
  }

  Words words(ValueId v, int slot_set) const {
    const ValueInfo& info = program_.value(v);
    const Slot& slot = plan_.slots[static_cast<size_t>(info.storage.root)];
    int64_t memory = 1000 + info.storage.root, limit = program_.local_bytes(info.storage.root);
    if (slot.region == Region::kTransient) memory = 0, limit = plan_.transient_bytes;
    if (slot.region == Region::kSlot) memory = 100 + slot_set, limit = plan_.slot_bytes;
    if (slot.region == Region::kInput) memory = 200 + slot_set, limit = plan_.input_bytes;
    const int64_t base = slot.region == Region::kPersistent ? 0 : slot.offset / 8;
    Words all;
    for_each_index(program_.local_shape(v), [&](const Dims& index) {
      int64_t at = base + info.storage.offset;
      for (int d = 0; d < index.rank(); ++d) at += index[d] * info.storage.strides[d];
      if (at < 0 || at * 8 + 8 > limit) problems_.push_back(program_.label(v) + " lies outside its memory");
      all.emplace_back(memory, at);
    });
    return all;
  }

  void write(const Words& where, ValueId v, int slot_set) {
    for (const Word& w : where) stamps_[w] = {v, slot_set};
  }

  void read(ValueId v, int slot_set, const std::string& who) {
    const Lifetime lifetime = program_.value(source(v)).lifetime;
    if (lifetime == Lifetime::kParameter || lifetime == Lifetime::kState) return;  // written by others too
    for (const Word& w : words(v, slot_set)) {
      const auto found = stamps_.find(w);
      if (found != stamps_.end() && found->second == std::make_pair(source(v), slot_set)) continue;
      problems_.push_back(str_cat(who, " reads ", program_.label(v), " but finds ",
                                  found == stamps_.end() ? "nothing" : program_.label(found->second.first)));
      return;
    }
  }

  static bool meet(const Words& a, const Words& b) {
    const std::set<Word> set(a.begin(), a.end());
    for (const Word& w : b) {
      if (set.count(w) > 0) return true;
    }
    return false;
  }

  bool is_read(ValueId v) const { return v != kNone && !plan_.unread[static_cast<size_t>(v)]; }

  void run_op(OpId id, int slot_set) {
    const Op& op = program_.op(id);
    const std::string who = str_cat("%", id, " ", op.kind->name());
    JoinInfo join_info;
    const bool is_join_op = is_join(*op.kind, &join_info);
    for (ValueId v : op.operands) {
      if (v != kNone) read(v, slot_set, who);
    }
    Words scratch;
    const Slot& workspace = plan_.workspaces[static_cast<size_t>(id)];
    for (int64_t i = 0; i < workspace.bytes / 8; ++i) scratch.emplace_back(0, workspace.offset / 8 + i);
    std::vector<Words> written;
    for (size_t r = 0; r < op.results.size(); ++r) {
      if (!is_read(op.results[r])) continue;
      if (op.accumulate[r] != kNone) read(op.accumulate[r], slot_set, who + " (sum so far)");
      const Words target = words(op.results[r], slot_set);
      const int over = op.kind->overwrites(static_cast<int>(r));
      for (size_t i = 0; i < op.operands.size(); ++i) {
        const ValueId v = op.operands[i];
        if (v == kNone) continue;
        const bool may = is_join_op || (op.accumulate[r] == kNone && over != kNone &&
                                        words(v, slot_set) == words(op.operands[static_cast<size_t>(over)], slot_set));
        if (!may && meet(target, words(v, slot_set)))
          problems_.push_back(who + " writes over its operand " + program_.label(v));
      }
      if (meet(target, scratch)) problems_.push_back(who + " has its result in its workspace");
      for (const Words& other : written) {
        if (meet(target, other)) problems_.push_back(who + " writes two results to one place");
      }
      written.push_back(target);
    }
    for (ValueId v : op.operands) {
      if (v != kNone && meet(scratch, words(v, slot_set)))
        problems_.push_back(who + " has an operand in its workspace");
    }
    write(scratch, kNone, slot_set);
    for (size_t r = 0; r < op.results.size(); ++r) {
      if (is_read(op.results[r])) write(words(op.results[r], slot_set), op.results[r], slot_set);
    }
  }

  const Plan& plan_;
  const Program& program_;
  std::map<Word, std::pair<ValueId, int>> stamps_;
  mutable std::vector<std::string> problems_;
};

}  // namespace megatron::tiny
