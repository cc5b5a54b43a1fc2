// What `plan --simulate` proves fails where it does not hold: faults planted in lists of collectives, programs,
// boundaries and schedules.
#include <algorithm>

#include "base/error.h"
#include "base/strings.h"
#include "parallel/mesh.h"
#include "tests/catch.h"
#include "tests/train/rank_run.h"
#include "train/plan_simulation.h"

namespace megatron::test {
namespace {

using Catch::Matchers::ContainsSubstring;

struct FaultCase {
  const char* name;
  int ranks;
  Settings settings;
};

const std::vector<FaultCase>& fault_cases() {
  static const std::vector<FaultCase> cases = {
      {"tp2 x pp2, sp",
       4,
       {{"parallel.tensor_model_parallel_size", "2"},
        {"parallel.pipeline_model_parallel_size", "2"},
        {"parallel.sequence_parallel", "true"}}},
      {"cp2 x dp2, ZeRO-3",
       4,
       {{"parallel.context_parallel_size", "2"}, {"parallel.data_parallel_sharding_strategy", "optim_grads_params"}}},
      {"pp2 x dp2 of tied embeddings, two chunks",
       4,
       {{"parallel.pipeline_model_parallel_size", "2"},
        {"parallel.num_virtual_stages_per_pipeline_rank", "2"},
        {"model.untie_embeddings_and_output_weights", "false"}}},
  };
  return cases;
}

/// A run that is right, and its parts.
struct Proven {
  explicit Proven(const FaultCase& c) : config(config_of(c)), ranks(plan_ranks(c)) {
    step = schedule_of(ranks.plans[0], step_sizes(config, data_parallel_size(ranks.plans[0].mesh)).back(), true);
    evaluation = schedule_of(ranks.plans[0], ranks.plans[0].eval_micro_batches, false);
    paper = make_paper_run(ranks.plans, step, evaluation);
    run_on_paper(paper);
  }
  static Config config_of(const FaultCase& c) {
    Settings settings = exact({{"model.num_layers", "4"}});
    for (const auto& [key, value] : c.settings) settings[key] = value;
    return load_settings(settings, c.ranks).config;
  }
  RankPlans plan_ranks(const FaultCase& c) const {
    return megatron::plan_ranks(config, vocab(), c.ranks, planned_ranks(config, c.ranks), true);
  }
  int64_t vocab() const { return open_data(config).vocab_size; }

  Config config;
  RankPlans ranks;
  PipelineSchedule step, evaluation;
  PaperRun paper;
};

void check_refused(const PaperRun& run) {
  CHECK_THROWS_WITH(run_on_paper(run), ContainsSubstring("rank ") && ContainsSubstring(", "));
}

}  // namespace

TEST_CASE("plan faults: a collective or transfer that one rank leaves out, each of them") {
  for (const FaultCase& c : fault_cases()) {
    INFO(c.name);
    Proven p(c);
    const size_t rank = 1;
    const std::vector<PaperCall> right = p.paper.scripts[rank].calls;
    REQUIRE(right.size() > 40);
    for (size_t i = 0; i < right.size(); ++i) {
      INFO(i << ": " << p.paper.texts.text(right[i].what));
      p.paper.scripts[rank].calls.erase(p.paper.scripts[rank].calls.begin() + static_cast<std::ptrdiff_t>(i));
      check_refused(p.paper);
      p.paper.scripts[rank].calls = right;
    }
    run_on_paper(p.paper);
  }
}

TEST_CASE("plan faults: two neighbours that one rank swaps, and one that it does twice") {
  for (const FaultCase& c : fault_cases()) {
    INFO(c.name);
    Proven p(c);
    std::vector<PaperCall>& calls = p.paper.scripts[2].calls;
    int swapped = 0;
    for (size_t i = 0; i + 1 < calls.size(); ++i) {
      // Two communicators may be entered in another order where nobody waits for it.
      if (calls[i].comm != calls[i + 1].comm) continue;
      const bool alike = calls[i].what == calls[i + 1].what && calls[i].moment == calls[i + 1].moment &&
                         *calls[i].call == *calls[i + 1].call;
      if (alike) continue;
      INFO(i << ": " << p.paper.texts.text(calls[i].what));
      std::swap(calls[i], calls[i + 1]);
      check_refused(p.paper);
      std::swap(calls[i], calls[i + 1]);
      ++swapped;
    }
    CHECK(swapped > 10);
    for (size_t i = 0; i < calls.size(); i += 5) {
      calls.insert(calls.begin() + static_cast<std::ptrdiff_t>(i), calls[i]);
      check_refused(p.paper);
      calls.erase(calls.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }
}

TEST_CASE("plan faults: another size, type or micro-batch of each call of one rank") {
  for (const FaultCase& c : fault_cases()) {
    INFO(c.name);
    Proven p(c);
    for (PaperCall& call : p.paper.scripts[3].calls) {
      INFO(p.paper.texts.text(call.moment) << ", " << p.paper.texts.text(call.what));
      const PaperCall right = call;
      PlannedCall wrong = *right.call;
      call.call = &wrong;
      for (int64_t& count : wrong.counts) ++count;
      (wrong.op == CommOp::kExchange && wrong.to < 0 ? wrong.received : wrong.sent) += 1;
      if (wrong.op == CommOp::kAllGather) wrong.received += std::ssize(wrong.counts);
      check_refused(p.paper);
      wrong = *right.call;
      wrong.dtype = wrong.dtype == DType::kBF16 ? DType::kF16 : DType::kBF16;
      check_refused(p.paper);
      call = right;
      call.moment = p.paper.texts.number("F99.0");
      check_refused(p.paper);
      call = right;
    }
  }
}

TEST_CASE("plan faults: swapped micro-batches are refused by the schedule's and by the ranks' simulation") {
  Proven p(fault_cases()[0]);
  PipelineSchedule wrong = p.step;
  std::vector<Instruction>& list = wrong.stages[1];
  const auto is_receive = [](const Instruction& i) { return i.action == Instruction::Action::kReceive; };
  const auto first = std::find_if(list.begin(), list.end(), is_receive);
  const auto second = std::find_if(first + 1, list.end(), is_receive);
  REQUIRE(second != list.end());
  std::swap(first->micro_batch, second->micro_batch);
  CHECK_THROWS_AS(simulate(wrong, usual_times(wrong)), InternalError);
  CHECK_THROWS_WITH(run_on_paper(make_paper_run(p.ranks.plans, wrong, p.evaluation)),
                    ContainsSubstring("communicator pp: ranks do not do the same: rank ") &&
                        ContainsSubstring(": F0, stream") && ContainsSubstring(": F1, stream") &&
                        ContainsSubstring("(another moment)"));
}

TEST_CASE("plan faults: values that stages do not hand on as the next expects them") {
  Proven p(fault_cases()[2]);
  RankPlan& last = p.ranks.plans[2];
  const auto refused = [&](std::optional<BoundaryPlan>& boundary, const std::function<void(BoundaryPlan&)>& change) {
    const BoundaryPlan right = boundary.value();
    change(*boundary);
    CHECK_THROWS_WITH(check_boundaries(p.ranks.plans),
                      ContainsSubstring("rank 0 (stage 1)") && ContainsSubstring("rank 2 (stage 2)") &&
                          ContainsSubstring("hands on") && ContainsSubstring("expects"));
    boundary = right;
  };
  for (auto* boundary : {&last.train[0].received, &last.train[0].sent_gradient, &last.train[1].received,
                         &last.train[0].sent, &last.train[0].received_gradient, &last.eval[1].received}) {
    refused(*boundary, [](BoundaryPlan& b) { b.name += "x"; });
    refused(*boundary, [](BoundaryPlan& b) { b.type += "x"; });
    refused(*boundary, [](BoundaryPlan& b) { b.local_shape[0] += 1; });
  }
  last.train[0].received.reset();
  CHECK_THROWS_WITH(check_boundaries(p.ranks.plans), ContainsSubstring("expects nothing"));
}

TEST_CASE("plan faults: an operation that one rank's program lacks, each that communicates") {
  const FaultCase& c = fault_cases()[0];
  Proven p(c);
  const int rank = 3;
  TrainPrograms programs = make_train_programs(p.config, p.vocab(), make_parallel_context(p.config, c.ranks, rank));
  const RankPlan right = p.ranks.plans[rank];
  int removed = 0;
  for (Plan* plan : {&programs.train[0], &programs.eval[0], &programs.update}) {
    for (const Phase phase : {Phase::kForward, Phase::kBackward}) {
      std::vector<OpId>& list = plan->program.list(phase);
      for (size_t i = 0; i < list.size(); ++i) {
        const OpId id = list[i];
        const Op& op = plan->program.op(id);
        if (op.kind->comm_axis().empty() || planned_calls(*plan, id, plan->program.mesh).empty()) continue;
        INFO(op.scope << ", " << op.kind->name());
        list.erase(list.begin() + static_cast<std::ptrdiff_t>(i));
        p.ranks.plans[rank] = rank_plan(p.config, programs);
        CHECK_THROWS_AS(prove(p.config, p.ranks), InternalError);
        list.insert(list.begin() + static_cast<std::ptrdiff_t>(i), id);
        ++removed;
      }
    }
  }
  CHECK(removed > 20);
  p.ranks.plans[rank] = right;
  prove(p.config, p.ranks);
}

TEST_CASE("plan faults: ranks of one stage whose programs differ") {
  const FaultCase& c = fault_cases()[0];
  const Config config = Proven::config_of(c);
  const auto programs = [&](int64_t rank) {
    return make_train_programs(config, open_data(config).vocab_size, make_parallel_context(config, c.ranks, rank));
  };
  const TrainPrograms first = programs(0);
  TrainPrograms second = programs(1);
  require_same_programs(first, second, 0, 1);
  CHECK_THROWS_WITH(require_same_programs(first, programs(2), 0, 2),
                    ContainsSubstring("ranks 0 and 2 of one stage run different programs"));
  Program& program = second.train[0].program;
  Op& op = program.op(program.list(Phase::kBackward).back());
  op.scope += ".x";
  CHECK_THROWS_WITH(require_same_programs(first, second, 0, 1), ContainsSubstring(op.scope));
  program.list(Phase::kBackward).pop_back();
  CHECK_THROWS_WITH(require_same_programs(first, second, 0, 1), ContainsSubstring("another number of operations"));
}

TEST_CASE("plan faults: an operation whose members would call different things, and one that does not say what") {
  class Silent : public OpKind {
   public:
    std::string name() const override { return "silent"; }
    std::string comm_axis() const override { return "tp"; }
    Signature signature(const Operands&) const override { return parse_signature("a->a", DType::kF32); }
  };
  /// As many calls as the rank has elements.
  class Uneven final : public Silent {
   public:
    std::string name() const override { return "uneven"; }
    std::vector<PlannedCall> calls(const RunContext& c, DeviceKind) const override {
      return std::vector<PlannedCall>(static_cast<size_t>(c.in(0).numel()), PlannedCall::all_reduce(DType::kF32, 1));
    }
  };
  TrainPrograms programs;
  const auto make = [](const std::shared_ptr<const OpKind>& kind, int64_t size) {
    Program program;
    program.name = "x";
    program.mesh.axes = {{"tp", 2, 0}};
    Trace t(program);
    const Value x = t.input("x", DType::kF32, {size}, {AxisPlacement::S(0)});
    t.output("y", t.emit1(kind, {x}));
    return pack(std::move(program));
  };
  programs.update = make(std::make_shared<Uneven>(), 4);
  CHECK(check_members(programs) == 2);
  programs.update = make(std::make_shared<Uneven>(), 3);
  CHECK_THROWS_WITH(check_members(programs),
                    ContainsSubstring("uneven: members 0 and 1 do not call the same: 2 calls and 1"));
  programs.update = make(std::make_shared<Silent>(), 4);
  CHECK_THROWS_WITH(check_members(programs), ContainsSubstring("'silent' does not declare its collectives"));
  CHECK_THROWS_AS(programs.update.cost(Phase::kForward), InternalError);
}

TEST_CASE("plan faults: fewer slot sets than the schedule uses") {
  Proven p(fault_cases()[0]);
  p.ranks.plans[0].train[0].slot_sets = 1;
  CHECK_THROWS_WITH(prove(p.config, p.ranks), ContainsSubstring("rank 0, chunk 0 has fewer slot sets"));
}

}  // namespace megatron::test
