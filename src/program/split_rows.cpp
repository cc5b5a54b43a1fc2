// Cuts products into pieces, so that communication of one piece runs beside the arithmetic of another.
#include <algorithm>
#include <utility>

#include "program/elementwise.h"
#include "program/op_kind.h"
#include "program/passes.h"
#include "program/trace.h"
#include "program/views.h"

namespace megatron {
namespace {

using Sizes = std::vector<int64_t>;

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
        const Sizes sizes = sizes_of(id);
        if (sizes.size() < 2) {
          program_.list(phase).push_back(id);
          continue;
        }
        cut(id, sizes);
        ++count;
      }
    }
    return count;
  }

 private:
  bool communicates(OpId id) const { return id != kNone && program_.op(id).stream != Stream::kCompute; }

  /// Rows of the pieces, or nothing when the operation stays whole.
  Sizes sizes_of(OpId id) const {
    const Op& op = program_.op(id);
    if (!choose_(program_, id) || op.accumulate[0] != kNone) return {};
    const Sizes joined = joined_from(op.operands[0]);
    return joined.empty() ? taken_as(op.results[0]) : joined;
  }

  /// Rows of the parts that communication made of a value.
  Sizes joined_from(ValueId v) const {
    const OpId producer = program_.value(v).producer;
    JoinInfo info;
    if (producer == kNone || !is_join(*program_.op(producer).kind, &info) || info.dim != 0) return {};
    Sizes sizes;
    bool any = false;
    for (ValueId part : program_.op(producer).operands) {
      if (part == kNone) return {};
      sizes.push_back(program_.value(part).shape[0]);
      any = any || communicates(program_.value(part).producer);
    }
    return any ? sizes : Sizes{};
  }

  /// Rows of the parts in which communication takes a value.
  Sizes taken_as(ValueId v) const {
    for (OpId reader : readers_[static_cast<size_t>(v)]) {
      const Op& op = program_.op(reader);
      if (op.results.size() < 2 || !op.kind->is_view()) continue;
      Sizes sizes;
      bool any = false;
      int64_t rows = 0;
      for (ValueId part : op.results) {
        sizes.push_back(program_.value(part).shape[0]);
        rows += sizes.back();
        for (OpId user : readers_[static_cast<size_t>(part)]) any = any || communicates(user);
      }
      if (any && rows == program_.value(v).shape[0]) return sizes;
    }
    return {};
  }

  void cut(OpId id, const Sizes& sizes) {
    const Op op = program_.op(id);
    const ValueId y = op.results[0];
    trace_.set_scope(op.scope);
    std::vector<Value> operands, pieces;
    for (ValueId v : op.operands) operands.push_back({v});
    for (Value rows : split(trace_, operands[0], 0, sizes)) {
      operands[0] = rows;
      pieces.push_back(trace_.emit1(op.kind, operands));
      Op& piece = program_.op(program_.value(pieces.back().id).producer);
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
