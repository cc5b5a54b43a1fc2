#include "parallel/parallel_context.h"

#include <algorithm>

#include "base/strings.h"
#include "comm/buckets.h"
#include "comm/collectives.h"
#include "comm/context_collectives.h"
#include "comm/mesh_comms.h"
#include "program/elementwise.h"
#include "program/passes.h"
#include "program/views.h"

namespace megatron {

Placement ParallelContext::tp_sharded(int dim) const {
  Placement placement = replicated();
  const int tp = mesh_.find("tp");
  if (tp >= 0) placement[static_cast<size_t>(tp)] = AxisPlacement::S(dim);
  return placement;
}

int64_t ParallelContext::context_size() const {
  int64_t size = 1;
  for (const MeshAxis& axis : mesh_.axes) {
    if (starts_with(axis.name, "cp")) size *= axis.size;
  }
  return size;
}

int64_t ParallelContext::context_rank() const {
  int64_t rank = 0, stride = 1;
  for (const MeshAxis& axis : mesh_.axes) {  // the first is the inner one
    if (!starts_with(axis.name, "cp")) continue;
    rank += stride * axis.coordinate;
    stride *= axis.size;
  }
  return rank;
}

ContextExchange ParallelContext::context_exchange() const {
  ContextExchange exchange;
  exchange.gathers = cp_comm_type_ == "all_gather";
  if (mesh_.find("cp_a2a") >= 0) exchange.heads_axis = "cp_a2a";
  if (mesh_.find("cp_p2p") >= 0) exchange.keys_axis = "cp_p2p";
  if (mesh_.find("cp") >= 0) (cp_comm_type_ == "a2a" ? exchange.heads_axis : exchange.keys_axis) = "cp";
  return exchange;
}

namespace {

/// Cuts dimension `dim` over the data-parallel ranks.
Placement over_data(Placement placement, const Mesh& mesh, int dim) {
  for (const char* axis : kDataAxes) {
    const int found = mesh.find(axis);
    if (found >= 0) placement[static_cast<size_t>(found)] = AxisPlacement::S(dim);
  }
  return placement;
}

}  // namespace

Placement ParallelContext::tokens() const {
  Placement placement = over_data(replicated(), mesh_, 1);
  for (const char* axis : kContextAxes) {
    const int cp = mesh_.find(axis);
    if (cp >= 0) placement[static_cast<size_t>(cp)] = AxisPlacement::S(0);
  }
  return placement;
}

ParallelContext::StreamType ParallelContext::stream(int64_t S, int64_t B, int64_t C) const {
  StreamType type{{S, B, C}, tokens(), 1};
  if (!sequence_parallel()) return type;
  type.placement[static_cast<size_t>(mesh_.find("tp"))] = AxisPlacement::S(0);
  if (!striped()) return type;
  type.shape = {count_pieces(S), S / count_pieces(S), B, C};
  type.sample_dim = 2;
  for (AxisPlacement& p : type.placement) {
    if (p.sharded()) ++p.dim;
  }
  return type;
}

ParallelContext ParallelContext::within_stage() const {
  ParallelContext other = *this;
  std::erase_if(other.mesh_.axes, [](const MeshAxis& axis) { return axis.name == "pp"; });
  return other;
}

std::string ParallelContext::pipeline_ends() {
  return kPipelineEnds;
}

std::vector<MeshAxis> ParallelContext::groups_of_stages() const {
  std::vector<MeshAxis> groups;
  if (stages() == 1) return groups;
  groups.push_back({"pp", stages(), stage()});
  const bool first = stage() == 0;
  if (first || stage() == stages() - 1) groups.push_back({pipeline_ends(), 2, first ? 0 : 1});
  return groups;
}

int ParallelContext::stages() const {
  const int pp = mesh_.find("pp");
  return pp < 0 ? 1 : mesh_.axes[static_cast<size_t>(pp)].size;
}

int ParallelContext::stage() const {
  const int pp = mesh_.find("pp");
  return pp < 0 ? 0 : mesh_.axes[static_cast<size_t>(pp)].coordinate;
}

Placement ParallelContext::samples() const {
  return over_data(replicated(), mesh_, 0);
}

Value ParallelContext::parameter(Trace& t, const std::string& name, DType dtype, const Dims& shape, Placement placement,
                                 const Init& init) const {
  const int dp = mesh_.find(kDataAxis);
  if (dp < 0 || data_.sharding < Sharding::kGradients) return t.parameter(name, dtype, shape, placement, init);
  const bool bf16 = data_.reduce_in_bf16;
  if (data_.sharding == Sharding::kGradients) {
    return share_flat(t, t.parameter(name, dtype, shape, placement, init), kDataAxis, bf16);
  }
  placement[static_cast<size_t>(dp)] = AxisPlacement::F();
  return all_gather_flat(t, {t.parameter(name, dtype, shape, placement, init)}, kDataAxis, bf16)[0];
}

int64_t ParallelContext::count_pieces(int64_t rows) const {
  int64_t count = std::max<int64_t>(1, std::min(pieces_, rows));
  while (rows % count != 0) --count;
  return count;
}

std::vector<Value> ParallelContext::pieces_of(Trace& t, Value x) const {
  const int64_t rows = t.shape(x)[0], count = count_pieces(rows);
  if (count == 1) return {x};
  return split(t, x, 0, std::vector<int64_t>(static_cast<size_t>(count), rows / count));
}

Value ParallelContext::stream_of(Trace& t, const std::vector<Value>& pieces) {
  std::vector<Value> parts;
  for (Value piece : pieces) {
    Dims shape{1};
    for (int d = 0; d < t.shape(piece).rank(); ++d) shape.push_back(t.shape(piece)[d]);
    parts.push_back(reshape(t, piece, shape));
  }
  return join(t, parts, 0);
}

Value ParallelContext::gather_in(Trace& t, Value x) const {
  if (mesh_.find("tp") < 0) return x;
  if (!sequence_parallel_) return enter(t, x, "tp");
  if (!striped()) return all_gather(t, x, "tp");
  const Dims& whole = t.shape(x);
  Dims shape{whole[1]};
  for (int d = 2; d < whole.rank(); ++d) shape.push_back(whole[d]);
  const std::vector<int64_t> ones(static_cast<size_t>(whole[0]), 1);
  std::vector<Value> gathered;
  for (Value piece : split(t, x, 0, ones)) gathered.push_back(all_gather(t, reshape(t, piece, shape), "tp"));
  return join(t, gathered, 0);
}

Value ParallelContext::to_stream(Trace& t, Value x) const {
  if (!sequence_parallel() || !x) return x;
  if (!striped()) return slice(t, x, "tp");
  std::vector<Value> pieces = pieces_of(t, x);
  for (Value& piece : pieces) piece = slice(t, piece, "tp");
  return stream_of(t, pieces);
}

Value ParallelContext::reduce_out(Trace& t, Value x) const {
  if (mesh_.find("tp") < 0) return x;
  std::vector<Value> pieces = pieces_of(t, x);
  for (Value& piece : pieces) piece = sequence_parallel_ ? reduce_scatter(t, piece, "tp") : all_reduce(t, piece, "tp");
  return striped() ? stream_of(t, pieces) : join(t, pieces, 0);
}

Value ParallelContext::gather_out(Trace& t, Value x) const {
  return mesh_.find("tp") < 0 ? x : all_gather(t, x, "tp");
}

int64_t data_parallel_size(const Mesh& mesh) {
  int64_t size = 1;
  for (const char* axis : kDataAxes) {
    const int found = mesh.find(axis);
    if (found >= 0) size *= mesh.axes[static_cast<size_t>(found)].size;
  }
  return size;
}

int64_t data_parallel_rank(const Mesh& mesh) {
  int64_t rank = 0, stride = 1;
  for (const char* axis : kDataAxes) {
    const int found = mesh.find(axis);
    if (found < 0) continue;
    rank += mesh.axes[static_cast<size_t>(found)].coordinate * stride;
    stride *= mesh.axes[static_cast<size_t>(found)].size;
  }
  return rank;
}

Value ParallelContext::gather_sequence(Trace& t, Value x, const std::string& axis) const {
  return all_gather(t, x, axis);
}

std::vector<Value> ParallelContext::pass_on(Trace& t, const std::vector<Value>& values, const std::string& axis) const {
  return ring_shift(t, values, axis, 1);
}

Value ParallelContext::heads_for_sequence(Trace& t, Value x, const std::string& axis) const {
  return megatron::heads_for_sequence(t, x, axis, 2);
}

Value ParallelContext::sequence_for_heads(Trace& t, Value x, const std::string& axis) const {
  return megatron::sequence_for_heads(t, x, axis, 2);
}

Value reduce_partial(Trace& t, Value x) {
  for (size_t axis = 0; axis < t.mesh().axes.size(); ++axis) {
    if (t.info(x).placement[axis].partial()) x = all_reduce(t, x, t.mesh().axes[axis].name);
  }
  return x;
}

bool is_gathered(const Program& program, ValueId v) {
  const OpId producer = program.value(v).producer;
  if (producer == kNone) return false;
  const Op& op = program.op(producer);
  JoinInfo info;
  if (!is_join(*op.kind, &info)) return op.kind->name() == "all_gather" && op.kind->comm_axis() == "tp";
  return std::all_of(op.operands.begin(), op.operands.end(),
                     [&](ValueId part) { return part != kNone && is_gathered(program, part); });
}

int split_products(Program& program) {
  return split_rows(program, [](const Program& p, OpId id) {
    const std::string name = p.op(id).kind->name();
    return name == "linear" || name == "linear_dgrad";
  });
}

bool is_gathered_weight(const Program& program, ValueId v) {
  const OpId producer = program.value(v).producer;
  return producer != kNone && all_gather_flat_of(*program.op(producer).kind, 1) != nullptr;
}

}  // namespace megatron
