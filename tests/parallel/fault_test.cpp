// Faults planted in whole models: a collective that is left out is refused when the program is built, a block that
// comes from the wrong rank is caught by the comparison with one rank.
#include "base/error.h"
#include "checkpoint/model_tensors.h"
#include "tests/catch.h"
#include "tests/parallel/mesh_train.h"
#include "tests/parallel/models.h"

namespace megatron::testing {
namespace {

bool is_collective(const Op& op) {
  for (const char* name : {"all_reduce", "reduce_scatter", "all_gather", "slice", "enter", "all_reduce_into"}) {
    if (op.kind->name() == name) return true;
  }
  return false;
}

std::vector<OpId> collectives_of(const Program& program, Phase phase) {
  std::vector<OpId> found;
  for (OpId id : program.list(phase)) {
    if (is_collective(program.op(id))) found.push_back(id);
  }
  return found;
}

Program traced(const TrainSetup& setup, const Mesh& mesh, bool sequence_parallel) {
  Program program;
  program.name = "train";
  program.mesh = mesh;
  Trace t(program, true);
  trace_loss(t, setup.spec, ParallelContext(mesh, sequence_parallel).in_pieces(setup.pieces),
             {.micro_batch_size = setup.micro_batch});
  return program;
}

/// Copies a traced forward operation by operation, as its modules would have emitted it, with `kind_of(op)` for the
/// kind of an operation, or without it (a null kind): then its operand goes on in place of its result.
Program traced_again(const Program& from, const std::function<std::shared_ptr<const OpKind>(OpId)>& kind_of) {
  Program program;
  program.name = from.name;
  program.mesh = from.mesh;
  Trace t(program, true);
  std::map<ValueId, Value> map{{kNone, {}}};
  const auto at = [&](ValueId id) {
    const auto found = map.find(id);
    if (found != map.end()) return found->second;
    const ValueInfo& v = from.value(id);
    Init init;
    for (const ParameterInfo& p : from.parameters) {
      if (p.value == id) init = p.init;
    }
    const Value made = v.lifetime == Lifetime::kParameter ? t.parameter(v.name, v.dtype, v.shape, v.placement, init)
                       : v.lifetime == Lifetime::kInput   ? t.input(v.name, v.dtype, v.shape, v.placement, v.sample_dim)
                                                          : t.state(v.name, v.dtype, v.shape, v.placement);
    return map[id] = made;
  };
  for (const ParameterInfo& p : from.parameters) at(p.value);
  for (OpId id : from.list(Phase::kForward)) {
    const Op& op = from.op(id);
    std::vector<Value> operands;
    for (ValueId v : op.operands) operands.push_back(at(v));
    const std::shared_ptr<const OpKind> kind = kind_of(id);
    if (!kind) {
      map[op.results[0]] = operands[0];
      continue;
    }
    t.set_scope(op.scope);
    const std::vector<Value> results = t.emit(kind, operands);
    for (size_t i = 0; i < results.size(); ++i) {
      map[op.results[i]] = results[i];
      if (op.accumulate[i] != kNone) t.accumulate_into(results[i], at(op.accumulate[i]));
    }
  }
  for (const Loss& loss : from.losses) t.loss(at(loss.value), at(loss.seed));
  differentiate(program);
  remove_dead_ops(program);
  return program;
}

Program without(const Program& from, OpId left_out) {
  return traced_again(from, [&](OpId id) { return id == left_out ? nullptr : from.op(id).kind; });
}

/// The collective with the blocks of the next rank: the types are right, the numbers are not.
class WrongRank final : public OpKind {
 public:
  explicit WrongRank(std::shared_ptr<const OpKind> right) : right_(std::move(right)) {}
  std::string name() const override { return right_->name(); }
  std::string comm_axis() const override { return right_->comm_axis(); }
  Signature signature(const Operands& operands) const override { return right_->signature(operands); }
  std::vector<ValueInfo> infer(const Operands& operands, const Mesh& mesh) const override {
    return right_->infer(operands, mesh);
  }
  void backward(BackwardContext& context) const override { right_->backward(context); }
  void run_cpu(const RunContext& c) const override {
    Moved moved(*c.comm);
    RunContext other = c;
    other.comm = &moved;
    right_->run_cpu(other);
  }

 private:
  /// Says it is the next rank, and takes part as it.
  class Moved final : public Comm {
   public:
    explicit Moved(Comm& comm) : comm_(comm) {}
    int rank() const override { return (comm_.rank() + 1) % comm_.size(); }
    int size() const override { return comm_.size(); }
    const std::string& name() const override { return comm_.name(); }
    void run(const CommCall& call) override { comm_.run(call); }
    std::unique_ptr<Comm> split(int, int, const std::string&) override { return nullptr; }

   private:
    Comm& comm_;
  };
  std::shared_ptr<const OpKind> right_;
};

TensorRecord record_on_one_rank(const TrainSetup& setup, const std::string& name) {
  const Program program = loss_program(setup, {}, false);
  for (const ParameterInfo& p : program.parameters) {
    const ValueInfo& v = program.value(p.value);
    if (v.name == name) return stored_record(name, StateKind::kParameter, v.dtype, v.shape, p.init);
  }
  throw std::runtime_error("no parameter " + name);
}

}  // namespace

TEST_CASE("whole models: every collective of the forward that is left out is refused, or only moves a sum") {
  int refused = 0, moved = 0;
  for (const TrainSetup& setup : {llama_setup(), gpt2_setup(), shared_groups_setup()}) {
    const TrainResult one = train_on(setup, {}, false);
    for (bool sequence_parallel : {false, true}) {
      for (const AxisSizes& sizes : {AxisSizes{{"tp", 2}}, AxisSizes{{"tp", 4}, {"dp", 2}}}) {
        const Mesh mesh = meshes_of(sizes)[0];
        const Program right = traced(setup, mesh, sequence_parallel);
        REQUIRE(traced_again(right, [&](OpId id) { return right.op(id).kind; }).ops.size() > right.ops.size());
        for (OpId id : collectives_of(right, Phase::kForward)) {
          const Op& op = right.op(id);
          INFO(name_of(sizes, sequence_parallel) << ": without " << op.kind->name() << " in " << op.scope);
          const std::string text = tiny::message_of([&] { without(right, id); });
          if (!text.empty()) {
            CHECK(tiny::contains(text, "tp"));
            ++refused;
            continue;
          }
          // Only an enter may go: where the gradient stays linear it is summed later.
          CHECK(op.kind->name() == "enter");
          ++moved;
          TrainSetup changed = setup;
          changed.trace = [&](const Mesh& m) { return without(traced(setup, m, sequence_parallel), id); };
          const TrainResult many = train_on(changed, sizes, sequence_parallel);
          CHECK(model_difference(many.first_gradients, one.first_gradients) < 1e-12);
          CHECK(relative_difference(many.norms, one.norms) < 1e-12);
        }
      }
    }
  }
  CHECK(refused >= 100);
  CHECK(moved < refused / 4);
}

TEST_CASE("whole models: no piece of a collective may be left out") {
  TrainSetup setup = gpt2_setup();
  setup.pieces = 2;
  const Mesh mesh = meshes_of({{"tp", 2}})[0];
  int refused = 0;
  for (bool sequence_parallel : {false, true}) {
    const Program right = traced(setup, mesh, sequence_parallel);
    for (OpId id : collectives_of(right, Phase::kForward)) {
      const Op& op = right.op(id);
      if (op.kind->name() == "enter") continue;
      INFO("without " << op.kind->name() << " in " << op.scope);
      CHECK_THROWS_AS(without(right, id), InternalError);
      ++refused;
    }
  }
  // Embedding and, in two layers, two sums; under sequence parallelism two gathers more, one for the loss, and the
  // indices of positions and of dropout. Two pieces each.
  CHECK(refused == 2 * (1 + 2 * 2) + 2 * (1 + 2 * 4 + 1 + 2));
}

TEST_CASE("whole models: collectives of the backward and of the update cannot go either") {
  for (bool sequence_parallel : {false, true}) {
    const Mesh mesh = meshes_of({{"tp", 2}, {"dp", 2}})[0];
    const TrainSetup setup = gpt2_setup();
    const Program train = loss_program(setup, mesh, sequence_parallel);
    std::vector<std::string> names;
    for (const ParameterInfo& p : train.parameters) names.push_back(train.value(p.value).name);
    const Program update = make_update_program(train, setup.optimizer, make_param_groups(names, {}, {}));
    int count = 0;
    for (const auto& [program, phase] : {std::pair{&train, Phase::kBackward}, std::pair{&update, Phase::kForward}}) {
      for (OpId id : collectives_of(*program, phase)) {
        const Op& op = program->op(id);
        if (op.kind->is_view()) continue;
        const bool into = op.results.empty();  // sums come in place of the second half of the operands
        const size_t members = into ? op.operands.size() / 2 : 1;
        for (size_t i = 0; i < members; ++i) {
          const ValueId made = into ? op.operands[members + i] : op.results[i];
          Program broken = *program;
          for (Op& user : broken.ops) {
            if (&user == &broken.op(id)) continue;
            for (ValueId& v : user.operands) v = v == made ? op.operands[i] : v;
          }
          INFO(program->name << ": without " << op.kind->name() << " of " << program->label(made));
          CHECK_THROWS_AS(verify(broken), InternalError);
          ++count;
        }
      }
    }
    CHECK(count >= 20);
  }
}

TEST_CASE("whole models: a slice of the wrong rank is caught by the comparison with one rank") {
  const TrainSetup setup = gpt2_setup();
  const TrainResult one = train_on(setup, {}, false);
  const Program right = traced(setup, meshes_of({{"tp", 2}})[0], true);
  int planted = 0;
  for (OpId id : collectives_of(right, Phase::kForward)) {
    if (right.op(id).kind->name() != "slice") continue;
    INFO("in " << right.op(id).scope);
    TrainSetup changed = setup;
    changed.trace = [&](const Mesh& m) {
      const Program program = traced(setup, m, true);
      return traced_again(program, [&](OpId other) -> std::shared_ptr<const OpKind> {
        return other == id ? std::make_shared<WrongRank>(program.op(other).kind) : program.op(other).kind;
      });
    };
    CHECK(model_difference(train_on(changed, {{"tp", 2}}, true).first_gradients, one.first_gradients) > 1e-4);
    ++planted;
  }
  CHECK(planted == 2);  // the index of dropout, and positions
}

TEST_CASE("checkpoint boxes of all ranks cover every tensor once") {
  for (const TrainSetup& setup : {awkward_setup(), shared_groups_setup(), padded_setup()}) {
    const std::vector<Mesh> meshes = meshes_of({{"tp", 4}});
    const Program first = loss_program(setup, meshes[0], true);
    for (const ParameterInfo& p : first.parameters) {
      const ValueInfo& info = first.value(p.value);
      INFO(info.name);
      const TensorRecord record = stored_record(info.name, StateKind::kParameter, info.dtype, info.shape, p.init);
      const TensorRecord alone = record_on_one_rank(setup, info.name);
      CHECK(record.shape == alone.shape);
      int64_t covered = 0, next = 0, whole = 1;
      for (int64_t extent : record.shape) whole *= extent;
      for (const Mesh& mesh : meshes) {
        const ValueInfo here = loss_program(setup, mesh, true).value(p.value);
        const Box box = stored_box(here.name, here.shape, p.init, local_box(here.shape, here.placement, mesh));
        int64_t elements = 1;
        for (int64_t extent : box.extent) elements *= extent;
        covered += elements;
        for (size_t d = 0; d < box.extent.size(); ++d) CHECK(box.offset[d] + box.extent[d] <= record.shape[d]);
        for (size_t d = 0; d < box.extent.size() && info.placement[0].sharded(); ++d) {
          if (box.extent[d] == record.shape[d] || elements == 0) continue;
          CHECK(box.offset[d] == next);  // blocks follow each other in the order of ranks
          next += box.extent[d];
        }
      }
      CHECK(covered == whole * (info.placement[0].sharded() ? 1 : 4));
    }
  }
}

}  // namespace megatron::testing
