#include "train/plan_simulation.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/strings.h"
#include "comm/mesh_comms.h"
#include "config/batch_schedule.h"
#include "parallel/mesh.h"

namespace megatron {
namespace {

/// Writes down what ranks do.
class ScriptWriter {
 public:
  explicit ScriptWriter(PaperRun& run) : run_(run) {}

  void begin_rank(const RankPlan& plan) {
    plan_ = &plan;
    by_name_.clear();
    run_.scripts.push_back({plan.rank, {}});
  }

  /// Of `ops` all, or those that run in every micro-batch.
  void add(const std::vector<OpTraffic>& ops, const std::string& moment, bool edge = true) {
    const int when = run_.texts.number(moment);
    for (const OpTraffic& op : ops) {
      if (op.edge && !edge) continue;
      const int comm = comm_of(op.comm), what = run_.texts.number(op.what);
      for (const PlannedCall& call : op.calls) run_.scripts.back().calls.push_back({comm, &call, what, when});
    }
  }

  /// The instructions of the rank's stage.
  void add(const PipelineSchedule& schedule, const std::vector<ChunkPlan>& chunks, const std::string& prefix) {
    const int last = schedule.shape.micro_batches - 1;
    for (const Instruction& i : schedule.stages.at(static_cast<size_t>(plan_->stage))) {
      const ChunkPlan& chunk = chunks.at(static_cast<size_t>(i.chunk));
      if (i.action != Instruction::Action::kRun) {
        transfer(i, chunk, prefix);
        continue;
      }
      const bool edge = i.micro_batch == (i.phase == Phase::kForward ? 0 : last);
      add(chunk.phases[static_cast<size_t>(i.phase)], prefix + describe(i), edge);
    }
  }

 private:
  void transfer(const Instruction& i, const ChunkPlan& chunk, const std::string& prefix) {
    const bool forward = i.phase == Phase::kForward, sends = i.action == Instruction::Action::kSend;
    const std::optional<BoundaryPlan>& value =
        forward ? (sends ? chunk.sent : chunk.received) : (sends ? chunk.sent_gradient : chunk.received_gradient);
    if (!value) {
      throw InternalError(
          str_cat("rank ", plan_->rank, ": ", prefix, describe(i), ": chunk ", i.chunk, " has no value for it"));
    }
    const int64_t count = value->local_shape.numel();
    run_.transfers.push_back(sends ? PlannedCall::exchange(value->dtype, count, i.peer, 0, -1)
                                   : PlannedCall::exchange(value->dtype, 0, -1, count, i.peer));
    run_.scripts.back().calls.push_back({comm_of(forward ? "pp" : kPipelineBackward), &run_.transfers.back(),
                                         run_.texts.number(value->name),
                                         run_.texts.number(str_cat(prefix, name_of(i.phase), i.micro_batch))});
  }

  /// Of the rank's communicator of that name.
  int comm_of(const std::string& name) {
    const auto [found, fresh] = by_name_.try_emplace(name, 0);
    if (!fresh) return found->second;
    const std::vector<int> members = members_of(*plan_, name);
    const auto [known, first] = by_members_.try_emplace({name, members.front()}, narrow<int>(std::ssize(run_.comms)));
    if (first) run_.comms.push_back({name, {members.begin(), members.end()}});
    return found->second = known->second;
  }

  PaperRun& run_;
  const RankPlan* plan_ = nullptr;
  std::map<std::string, int> by_name_;                     ///< of this rank
  std::map<std::pair<std::string, int>, int> by_members_;  ///< by name and first member
};

void compare_boundary(const RankPlan& from, const RankPlan& to, const std::optional<BoundaryPlan>& given,
                      const std::optional<BoundaryPlan>& taken, const std::string& what) {
  const auto text = [&](const std::optional<BoundaryPlan>& b) {
    return b ? str_cat(b->name, " ", b->type, ", here ", to_string(b->local_shape), ", ", b->bytes(), " bytes")
             : std::string("nothing");
  };
  const bool same =
      given.has_value() == taken.has_value() && (!given || (given->name == taken->name && given->type == taken->type &&
                                                            given->local_shape == taken->local_shape));
  if (same) return;
  throw InternalError(str_cat(what, ": rank ", from.rank, " (stage ", from.stage + 1, ") hands on ", text(given),
                              "; rank ", to.rank, " (stage ", to.stage + 1, ") expects ", text(taken)));
}

const RankPlan* find_rank(const std::vector<RankPlan>& plans, int64_t rank) {
  const auto found = std::lower_bound(plans.begin(), plans.end(), rank,
                                      [](const RankPlan& plan, int64_t wanted) { return plan.rank < wanted; });
  return found == plans.end() || found->rank != rank ? nullptr : &*found;
}

int64_t ranks_of_stage(const Config& config, int64_t world_size) {
  return div_exact(world_size, config.parallel.pipeline_model_parallel_size);
}

}  // namespace

void require_same_programs(const TrainPrograms& a, const TrainPrograms& b, int64_t rank, int64_t other) {
  const auto refuse = [&](const std::string& what) {
    throw InternalError(str_cat("ranks ", rank, " and ", other, " of one stage run different programs: ", what));
  };
  const std::vector<const Plan*> plans = a.plans(), others = b.plans();
  for (size_t p = 0; p < plans.size(); ++p) {
    const Program &x = plans[p]->program, &y = others.at(p)->program;
    for (size_t phase = 0; phase < kPhases; ++phase) {
      if (x.lists[phase].size() != y.lists[phase].size()) refuse(x.name + ": another number of operations");
      for (size_t i = 0; i < x.lists[phase].size(); ++i) {
        const Op &p1 = x.op(x.lists[phase][i]), &p2 = y.op(y.lists[phase][i]);
        // Attributes of others may say which part is the rank's: that of a sequence in attention.
        const bool alike = p1.kind->comm_axis().empty() || p1.kind->attributes() == p2.kind->attributes();
        const bool same = p1.scope == p2.scope && p1.kind->name() == p2.kind->name() && p1.edge == p2.edge && alike &&
                          p1.kind->comm_axis() == p2.kind->comm_axis() && p1.operands.size() == p2.operands.size();
        if (!same) {
          refuse(str_cat(x.name, ", operation ", i, ": ", p1.scope, ", ", p1.kind->name(), " ", p1.kind->attributes(),
                         "; ", p2.scope, ", ", p2.kind->name(), " ", p2.kind->attributes()));
        }
      }
    }
  }
}

std::vector<int64_t> planned_ranks(const Config& config, int64_t world_size) {
  const Mesh mesh = make_mesh(config.parallel, world_size, 0);
  int64_t count = config.parallel.pipeline_model_parallel_size, stride = 1;
  std::vector<int64_t> ranks = {0};
  for (const MeshAxis& axis : mesh.axes) {
    const bool is_pipeline = axis.name == "pp";
    if (is_pipeline || count * axis.size <= kAllRanksUpTo) {
      count *= is_pipeline ? 1 : axis.size;
      const size_t before = ranks.size();  // a later axis is slower, so they stay in order
      for (int64_t i = 1; i < axis.size; ++i) {
        for (size_t r = 0; r < before; ++r) ranks.push_back(ranks[r] + i * stride);
      }
    }
    stride *= axis.size;
  }
  return ranks;
}

std::string planned_text(const std::vector<RankPlan>& plans) {
  const Mesh& mesh = plans.at(0).mesh;
  const auto count = std::ssize(plans);
  if (count == mesh.world_size()) return count == 1 ? "the one rank" : str_cat("all ", count, " ranks");
  std::vector<std::string> whole, first;
  for (size_t a = 0; a < mesh.axes.size(); ++a) {
    const bool varies =
        std::any_of(plans.begin(), plans.end(), [&](const RankPlan& plan) { return plan.mesh.axes[a].coordinate > 0; });
    (varies ? whole : first).push_back(mesh.axes[a].name);
  }
  return str_cat(count, " of ", mesh.world_size(), " ranks (",
                 whole.empty() ? "" : "all along " + join(whole, ", ") + "; ", "along ", join(first, ", "),
                 " the first, whose shares are the largest)");
}

RankPlans plan_ranks(const Config& config, int64_t vocab_size, int64_t world_size, const std::vector<int64_t>& ranks,
                     bool prove, const std::function<void(const TrainPrograms&)>& look) {
  RankPlans result;
  for (const int64_t rank : ranks) {
    const TrainPrograms programs =
        make_train_programs(config, vocab_size, make_parallel_context(config, world_size, rank));
    result.plans.push_back(rank_plan(config, programs));
    if (look) look(programs);
    if (!prove) continue;
    result.member_calls += check_members(programs);
    const int64_t in_stage = ranks_of_stage(config, world_size), last = rank + in_stage - 1;
    if (world_size <= kAllRanksUpTo || rank % in_stage != 0) continue;
    const TrainPrograms other =
        make_train_programs(config, vocab_size, make_parallel_context(config, world_size, last));
    require_same_programs(programs, other, rank, last);
  }
  return result;
}

PipelineSchedule schedule_of(const RankPlan& plan, int micro_batches, bool backward) {
  return make_schedule(plan.schedule, {plan.stages, narrow<int>(std::ssize(plan.train)), micro_batches, backward});
}

std::vector<int> step_sizes(const Config& config, int64_t data_parallel_size) {
  std::vector<int> sizes;
  for (const BatchSizeStep& step : batch_schedule(config)) {
    sizes.push_back(
        narrow<int>(std::max<int64_t>(1, step.batch_size / (config.training.micro_batch_size * data_parallel_size))));
  }
  return sizes;
}

PipelineReport simulate_loads(const std::vector<RankPlan>& plans, int micro_batches) {
  const PipelineSchedule schedule = schedule_of(plans.at(0), micro_batches, true);
  PhaseTimes times = usual_times(schedule);
  times.stage_load.assign(static_cast<size_t>(plans[0].stages), 0.0);
  for (const RankPlan& plan : plans) {  // where ranks of a stage differ the slowest counts
    double& load = times.stage_load[static_cast<size_t>(plan.stage)];
    load = std::max(load, plan.flops());
  }
  double sum = 0;
  for (const double load : times.stage_load) sum += load;
  for (double& load : times.stage_load) load *= static_cast<double>(times.stage_load.size()) / sum;
  return simulate(schedule, times);
}

int64_t check_boundaries(const std::vector<RankPlan>& plans) {
  int64_t pairs = 0;
  for (const RankPlan& plan : plans) {
    if (plan.stages == 1) continue;
    const std::vector<int> stages = members_of(plan, "pp");
    const RankPlan* next = find_rank(plans, stages[static_cast<size_t>((plan.stage + 1) % plan.stages)]);
    MEGATRON_CHECK(next != nullptr, "the plans lack a stage");
    const size_t wraps = plan.stage + 1 == plan.stages ? 1 : 0;
    for (const bool training : {true, false}) {
      const std::vector<ChunkPlan>&from = training ? plan.train : plan.eval, &to = training ? next->train : next->eval;
      for (size_t c = 0; c + wraps < from.size(); ++c) {
        const ChunkPlan &gives = from[c], &takes = to[c + wraps];
        const std::string what = str_cat(training ? "training" : "evaluation", ", chunk ", c);
        compare_boundary(plan, *next, gives.sent, takes.received, what);
        compare_boundary(*next, plan, takes.sent_gradient, gives.received_gradient, what + ", backward");
        pairs += training ? 2 : 1;
      }
    }
  }
  return pairs;
}

PaperRun make_paper_run(const std::vector<RankPlan>& plans, const PipelineSchedule& step,
                        const PipelineSchedule& evaluation) {
  PaperRun run;
  ScriptWriter writer(run);
  for (const RankPlan& plan : plans) {
    writer.begin_rank(plan);
    writer.add(plan.begin, "begin");
    writer.add(step, plan.train, "");
    writer.add(plan.update, "update");
    writer.add(plan.gather, "gather");
    writer.add(plan.begin, "begin of the evaluation");
    writer.add(evaluation, plan.eval, "evaluation ");
  }
  return run;
}

SimulationReport prove(const Config& config, const RankPlans& ranks) {
  const std::vector<RankPlan>& plans = ranks.plans;
  const RankPlan& first = plans.at(0);
  SimulationReport report;
  report.ranks = std::ssize(plans);
  report.covers = planned_text(plans);
  report.stages = first.stages;
  report.member_calls = ranks.member_calls;
  report.boundaries = check_boundaries(plans);
  const PipelineSchedule evaluation = schedule_of(first, first.eval_micro_batches, false);
  simulate(evaluation, usual_times(evaluation));
  for (const int micro_batches : step_sizes(config, data_parallel_size(first.mesh))) {
    const PipelineSchedule step = schedule_of(first, micro_batches, true);
    simulate(step, usual_times(step));
    for (const RankPlan& plan : plans) {
      for (size_t c = 0; c < plan.train.size(); ++c) {
        const auto stage = static_cast<size_t>(plan.stage);
        MEGATRON_CHECK(plan.train[c].slot_sets >= step.slot_sets[stage][c] &&
                           plan.eval[c].slot_sets >= evaluation.slot_sets[stage][c],
                       str_cat("rank ", plan.rank, ", chunk ", c, " has fewer slot sets than its schedule uses"));
      }
    }
    report.micro_batches.push_back(micro_batches);
    for (const auto& list : step.stages) report.instructions += std::ssize(list);
    const PaperReport paper = run_on_paper(make_paper_run(plans, step, evaluation));
    report.paper.communicators = paper.communicators;
    report.paper.collectives += paper.collectives;
    report.paper.transfers += paper.transfers;
    report.paper.alone += paper.alone;
  }
  for (const auto& list : evaluation.stages) report.instructions += std::ssize(list);
  return report;
}

std::string describe(const SimulationReport& report) {
  const auto counted = [](int64_t count, const char* what) { return str_cat(count, " ", what, count == 1 ? "" : "s"); };
  std::vector<std::string> sizes;
  for (const int size : report.micro_batches) sizes.push_back(std::to_string(size));
  std::string text = "simulation   a training step and an evaluation of " + report.covers + ": proven\n";
  const auto line = [&](const std::string& what) { text += "  " + what + "\n"; };
  line(str_cat("schedule     ", counted(report.instructions, "instruction"), " of ", counted(report.stages, "stage"),
               ", ", join(sizes, ", "), " micro-batches: in order, each slot set used by one micro-batch at a time"));
  if (report.boundaries > 0) {
    line(str_cat("boundaries   ", report.boundaries, " pairs of values and gradients of neighbouring stages agree"));
  }
  const PaperReport& paper = report.paper;
  if (paper.communicators > 0) {
    line(str_cat("collectives  ", paper.collectives, " called alike by all members of ",
                 counted(paper.communicators, "communicator"), ", ", paper.transfers, " transfers taken as sent"));
  }
  if (paper.alone > 0) {
    line(str_cat("others       ", paper.alone, " on communicators of which one rank is planned: the last rank of each ",
                 "stage has the same ones in the same order, and in all ", report.member_calls,
                 " places where programs call the sizes of all members fit"));
  }
  line("order        every rank comes to its end where each call waits for all of its members: no deadlock");
  return text;
}

}  // namespace megatron
