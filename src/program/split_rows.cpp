// Cuts products into pieces, so that communication of one piece runs beside the arithmetic of another.
#include <algorithm>
#include <numeric>
#include <utility>

#include "program/elementwise.h"
#include "program/op_kind.h"
#include "program/passes.h"
#include "program/trace.h"
#include "program/views.h"

namespace megatron {
namespace {

/// The communication that makes or takes each part of a value, and the rows of the part.
struct Parts {
  std::vector<int64_t> rows;
  std::vector<OpId> beside;
  bool communicates() const {
    return rows.size() > 1 && std::count(beside.begin(), beside.end(), kNone) < static_cast<int64_t>(beside.size());
  }
  /// The parts as communication comes to them: a backward does so from the last to the first.
  std::vector<size_t> order() const {
    std::vector<size_t> order(rows.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return beside[a] < beside[b]; });
    return order;
  }
};

class RowSplitter {
 public:
  RowSplitter(Program& program, const std::function<bool(const Program&, OpId)>& choose)
      : program_(program), trace_(program, true), choose_(choose), readers_(program.values.size()) {
    for (const auto& list : program.lists) {
      for (OpId id : list) {
        for (ValueId v : program.op(id).operands) {
          if (v != kNone) readers_[static_cast<size_t>(v)].push_back(id);
        }
      }
    }
  }

  int run() {
    int count = 0;
    for (int p = 0; p < kPhases; ++p) {
      const auto phase = static_cast<Phase>(p);
      trace_.set_phase(phase);
      const std::vector<OpId> list = std::exchange(program_.list(phase), {});
      for (OpId id : list) {
        const Parts parts = parts_of(id);
        if (!parts.communicates()) {
          program_.list(phase).push_back(id);
          continue;
        }
        cut(id, parts);
        ++count;
      }
    }
    return count;
  }

 private:
  bool communicates(OpId id) const { return id != kNone && program_.op(id).stream != Stream::kCompute; }

  /// How the operation is cut; without parts when it stays whole.
  Parts parts_of(OpId id) const {
    const Op& op = program_.op(id);
    if (!choose_(program_, id) || op.accumulate[0] != kNone) return {};
    const Parts made = parts_joined(op.operands[0]);
    return made.communicates() ? made : parts_taken(op.results[0]);
  }

  /// The parts that a value is joined from.
  Parts parts_joined(ValueId v) const {
    const OpId producer = program_.value(v).producer;
    JoinInfo info;
    if (producer == kNone || !is_join(*program_.op(producer).kind, &info) || info.dim != 0) return {};
    Parts parts;
    for (ValueId part : program_.op(producer).operands) {
      if (part == kNone) return {};
      const OpId maker = program_.value(part).producer;
      parts.rows.push_back(program_.value(part).shape[0]);
      parts.beside.push_back(communicates(maker) ? maker : kNone);
    }
    return parts;
  }

  /// The parts that a value is split into.
  Parts parts_taken(ValueId v) const {
    for (OpId reader : readers_[static_cast<size_t>(v)]) {
      const Op& op = program_.op(reader);
      if (op.results.size() < 2 || !op.kind->is_view()) continue;
      Parts parts;
      for (ValueId part : op.results) {
        OpId taker = kNone;
        for (OpId user : readers_[static_cast<size_t>(part)]) taker = communicates(user) ? user : taker;
        parts.rows.push_back(program_.value(part).shape[0]);
        parts.beside.push_back(taker);
      }
      const int64_t rows = std::accumulate(parts.rows.begin(), parts.rows.end(), int64_t{0});
      if (parts.communicates() && rows == program_.value(v).shape[0]) return parts;
    }
    return {};
  }

  void cut(OpId id, const Parts& parts) {
    const Op op = program_.op(id);
    const ValueId y = op.results[0];
    trace_.set_scope(op.scope);
    std::vector<Value> operands;
    for (ValueId v : op.operands) operands.push_back({v});
    const std::vector<Value> rows = split(trace_, operands[0], 0, parts.rows);
    std::vector<Value> pieces(rows.size());
    for (size_t i : parts.order()) {
      operands[0] = rows[i];
      pieces[i] = trace_.emit1(op.kind, operands);
      Op& piece = program_.op(program_.value(pieces[i].id).producer);
      piece.stream = op.stream;
      piece.recompute_of = op.recompute_of;
    }
    const OpId whole = program_.value(join(trace_, pieces, 0).id).producer;
    program_.op(whole).results[0] = y;
    program_.value(y).producer = whole;
  }

  Program& program_;
  Trace trace_;
  const std::function<bool(const Program&, OpId)>& choose_;
  std::vector<std::vector<OpId>> readers_;
};

}  // namespace

int split_rows(Program& program, const std::function<bool(const Program&, OpId)>& choose) {
  const int count = RowSplitter(program, choose).run();
  verify(program);
  return count;
}

}  // namespace megatron
