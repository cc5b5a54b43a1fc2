// Collectives in pieces beside products: the same numbers as one rank, and streams that wait for their own piece alone.
#include "parallel/parallel_context.h"

#include "program/elementwise.h"
#include "tests/catch.h"
#include "tests/parallel/mesh_train.h"
#include "tests/parallel/models.h"

namespace megatron::testing {
namespace {

TrainSetup in_pieces(TrainSetup setup, int64_t pieces, bool gather_again = true) {
  setup.pieces = pieces;
  if (gather_again) setup.change = [](Program& program) { recompute(program, is_gathered); };
  return setup;
}

/// Pieces of 2 rows, which four ranks cannot all have a part of.
TrainSetup short_pieces_setup() {
  TrainSetup setup = awkward_setup();
  setup.spec.seq_length = 6;
  setup.spec.learned_positions = true;
  return setup;
}

bool is_product(const std::string& name) {
  return name == "linear" || name == "linear_dgrad";
}

int count(const Program& program, const std::function<bool(const std::string&)>& which) {
  int found = 0;
  for (const auto& list : program.lists) {
    for (OpId id : list) found += which(program.op(id).kind->name());
  }
  return found;
}

/// Waits between values that lie in different memory by the program alone: only the reuse of bytes brings them about.
int waits_for_reuse(const Plan& plan) {
  const auto roots = [&](OpId id) {
    std::set<ValueId> all;
    const Op& op = plan.program.op(id);
    for (const std::vector<ValueId>* list : {&op.operands, &op.results, &op.accumulate}) {
      for (ValueId v : *list) {
        if (v != kNone) all.insert(plan.program.value(v).storage.root);
      }
    }
    return all;
  };
  int found = 0;
  for (size_t i = 0; i < plan.waits.size(); ++i) {
    const auto id = static_cast<OpId>(i);
    for (OpId other : plan.waits[i]) {
      if (plan.program.op(id).kind->comm_axis() == plan.program.op(other).kind->comm_axis()) continue;
      const std::set<ValueId> mine = roots(id), theirs = roots(other);
      found += std::none_of(mine.begin(), mine.end(), [&](ValueId v) { return theirs.count(v) > 0; });
    }
  }
  return found;
}

}  // namespace

TEST_CASE("pieces: first step on any mesh equals one rank") {
  for (const TrainSetup& setup : {llama_setup(), gpt2_setup(), short_pieces_setup(), shared_groups_setup()}) {
    const TrainResult one = train_on(setup, {}, false);
    for (int64_t pieces : {2, 3, 4}) {
      for (const AxisSizes& sizes : {AxisSizes{{"tp", 2}}, AxisSizes{{"tp", 4}}, AxisSizes{{"tp", 2}, {"dp", 2}}}) {
        for (bool sequence_parallel : {false, true}) {
          for (bool again : {false, true}) {
            if (!sequence_parallel && again) continue;
            INFO(name_of(sizes, sequence_parallel) << ", " << pieces << " pieces, again " << again);
            const TrainResult many = train_on(in_pieces(setup, pieces, again), sizes, sequence_parallel);
            CHECK(relative_difference(many.losses, one.losses) < 1e-12);
            CHECK(model_difference(many.first_gradients, one.first_gradients) < 1e-12);
            CHECK(relative_difference(many.norms, one.norms) < 1e-12);
          }
        }
      }
    }
  }
}

TEST_CASE("pieces: 20 steps with clipping and accumulation equal one rank, and two runs have the same bits") {
  for (const TrainSetup& base : {gpt2_setup(), short_pieces_setup()}) {
    TrainSetup setup = base;
    setup.steps = 20;
    const TrainResult one = train_on(setup, {}, false);
    for (const auto& [tp, sequence_parallel] : {std::pair{2, false}, std::pair{2, true}, std::pair{4, true}}) {
      INFO(name_of({{"tp", tp}}, sequence_parallel));
      const TrainResult many = train_on(in_pieces(setup, 2), {{"tp", tp}}, sequence_parallel);
      CHECK(relative_difference(many.losses, one.losses) < 1e-10);
      CHECK(relative_difference(many.norms, one.norms) < 1e-8);
      const TrainResult again = train_on(in_pieces(setup, 2), {{"tp", tp}}, sequence_parallel);
      CHECK(again.losses == many.losses);
      CHECK(again.parameters == many.parameters);
    }
  }
}

TEST_CASE("pieces: sequences that the number does not divide come in fewer") {
  const TrainSetup setup = awkward_setup();  // 7 positions
  const TrainResult one = train_on(setup, {}, false);
  for (bool sequence_parallel : {false, true}) {
    const TrainResult many = train_on(in_pieces(setup, 4), {{"tp", 3}}, sequence_parallel);
    CHECK(model_difference(many.first_gradients, one.first_gradients) < 1e-12);
  }
}

TEST_CASE("pieces: products beside collectives are cut, weight gradients are not") {
  const Mesh mesh = meshes_of({{"tp", 2}})[0];
  const TrainSetup setup = llama_setup();  // 2 layers of 4 products
  const auto weight_gradient = [](const std::string& name) { return name == "linear_wgrad"; };
  const Program whole = loss_program(in_pieces(setup, 1), mesh, true),
                cut = loss_program(in_pieces(setup, 4), mesh, true);
  CHECK(count(whole, is_product) == 16);
  CHECK(count(cut, is_product) == 64);
  CHECK(count(cut, weight_gradient) == count(whole, weight_gradient));
  // Without sequence parallelism only the sums of the forward have no product to run beside: the sums of the backward
  // go beside the weight gradients.
  CHECK(count(loss_program(in_pieces(setup, 4, false), mesh, false), is_product) == 16 + 4 * 3);
}

TEST_CASE("pieces: streams wait for their own piece, and joins copy nothing") {
  const Mesh mesh = meshes_of({{"tp", 2}})[0];
  const DeviceKind device = GENERATE(DeviceKind::kCpu, DeviceKind::kCuda);  // with its workspaces and alignment
  TrainSetup setup = llama_setup();
  setup.spec.seq_length = setup.spec.max_positions = 512;
  PackOptions options;
  options.device = device;
  const Plan plan = pack(loss_program(in_pieces(setup, 4), mesh, true), options);
  const Program& program = plan.program;
  int products = 0, reductions = 0;
  for (Phase phase : {Phase::kForward, Phase::kBackward}) {
    const std::vector<OpId>& list = program.list(phase);
    for (OpId id : list) {
      const Op& op = program.op(id);
      const std::string name = op.kind->name();
      JoinInfo info;
      if (is_join(*op.kind, &info)) {
        const std::string maker = program.op(program.value(op.operands[0]).producer).kind->name();
        INFO(op.scope << " joins what " << maker << " makes");
        if (is_product(maker) || maker == "all_gather" || maker == "reduce_scatter") CHECK(joins_in_place(plan, id));
      }
      for (OpId other : plan.waits[static_cast<size_t>(id)]) {
        // The next operation on the other stream, a piece of the same value, may still be on its way.
        const std::string before = program.op(other).kind->name();
        const auto next = std::find_if(std::find(list.begin(), list.end(), other) + 1, list.end(), [&](OpId op_id) {
          return program.op(op_id).stream == program.op(other).stream && !program.op(op_id).kind->is_view();
        });
        const bool more = next != list.end() && program.op(*next).kind->name() == before;
        products += is_product(name) && before == "all_gather" && more;
        reductions += name == "reduce_scatter" && is_product(before) && more;
      }
    }
  }
  // Two layers with four pieces: all but the last have another behind them. Gathered: qkv, fc1, and in the backward
  // proj and fc2, after whose last piece the inputs of qkv and fc1 are gathered again; reduced the other way round.
  CHECK(products == 2 * 2 * 3 + 2 * 2 * 4);
  CHECK(reductions == 2 * 4 * 3);
  CHECK(waits_for_reuse(plan) == 0);
}

TEST_CASE("pieces: one that goes to another's place is caught by the comparison with one rank") {
  const TrainSetup setup = llama_setup();
  const TrainResult one = train_on(setup, {}, false);
  int planted = 0;
  for (const char* victim : {"all_gather", "reduce_scatter"}) {
    TrainSetup changed = setup;
    changed.trace = [&](const Mesh& mesh) {
      TrainSetup right = in_pieces(setup, 2);
      Program program = loss_program(right, mesh, true);
      for (OpId id : program.list(Phase::kForward)) {  // the first two of the forward change places
        Op& op = program.op(id);
        if (op.kind->name() != victim) continue;
        for (OpId next : program.list(Phase::kForward)) {
          if (next == id || program.op(next).kind->name() != victim) continue;
          std::swap(op.operands, program.op(next).operands);
          ++planted;
          break;
        }
        break;
      }
      return program;
    };
    CHECK(model_difference(train_on(changed, {{"tp", 2}}, true).first_gradients, one.first_gradients) > 1e-4);
  }
  CHECK(planted > 0);
}

}  // namespace megatron::testing
