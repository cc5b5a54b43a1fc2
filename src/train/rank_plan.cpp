#include "train/rank_plan.h"

#include <algorithm>
#include <map>

#include "base/check.h"
#include "base/error.h"
#include "base/strings.h"
#include "comm/call_match.h"
#include "comm/mesh_comms.h"
#include "program/passes.h"

namespace megatron {
namespace {

std::string what_text(const Op& op) {
  return op.scope.empty() ? op.kind->name() : op.scope + ", " + op.kind->name();
}

std::vector<OpTraffic> traffic_of(const Plan& plan, Phase phase) {
  std::vector<OpTraffic> all;
  for (OpCalls& one : planned_calls(plan, phase)) {
    const Op& op = plan.program.op(one.op);
    all.push_back({op.kind->comm_axis(), what_text(op), op.edge, std::move(one.calls)});
  }
  return all;
}

BoundaryPlan boundary_of(const Program& program, const std::string& name, ValueId id) {
  return {name, program.type_text(id), program.value(id).dtype, program.local_shape(id)};
}

ChunkPlan chunk_plan(const Plan& plan) {
  ChunkPlan chunk;
  chunk.slot_sets = plan.options.slot_sets;
  for (size_t p = 0; p < kPhases; ++p) {
    chunk.phases[p] = traffic_of(plan, static_cast<Phase>(p));
    chunk.flops[p] = plan.cost(static_cast<Phase>(p)).flops;
  }
  const Program& program = plan.program;
  MEGATRON_CHECK(program.received.size() <= 1 && program.sent.size() <= 1, "a pipeline stage hands on one value");
  for (const Boundary& b : program.received) {
    chunk.received = boundary_of(program, b.name, b.value);
    if (b.gradient != kNone) chunk.sent_gradient = boundary_of(program, gradient_name(b.name), b.gradient);
  }
  for (const Boundary& b : program.sent) {
    chunk.sent = boundary_of(program, b.name, b.value);
    if (b.gradient != kNone) chunk.received_gradient = boundary_of(program, gradient_name(b.name), b.gradient);
  }
  return chunk;
}

int64_t elements_held(const Program& held) {
  int64_t elements = 0;
  for (const ParameterInfo& p : held.parameters) {
    if (!held.is_alias(p.value)) elements += held.local_shape(p.value).numel();
  }
  return elements;
}

/// Adds up calls and bytes by communicator.
class TrafficSum {
 public:
  explicit TrafficSum(const RankPlan& plan) {
    for (const MeshAxis& axis : plan.mesh.axes) add_comm(axis.name, axis.size);
    if (plan.stages == 1) return;
    add_comm(kPipelineBackward, plan.stages);
    add_comm(kPipelineEnds, 2);
  }

  /// `inner` runs in which edge operations do not take part.
  void add(const std::vector<OpTraffic>& ops, int64_t inner = 0) {
    for (const OpTraffic& op : ops) {
      const auto index = index_.find(op.comm);
      MEGATRON_CHECK(index != index_.end(), "no communicator " + op.comm);
      const int64_t runs = 1 + (op.edge ? 0 : inner);
      for (const PlannedCall& call : op.calls) {
        add_call(index->second, runs, static_cast<double>(runs) * wire_bytes(call, sizes_[index->second]));
      }
    }
  }

  void transfer(const char* comm, int64_t runs, double bytes_sent) {
    add_call(index_.at(comm), runs, static_cast<double>(runs) * bytes_sent);
  }

  std::vector<StepTraffic> result() const {
    std::vector<StepTraffic> used;
    for (const StepTraffic& one : sums_) {
      if (one.calls > 0) used.push_back(one);
    }
    return used;
  }

 private:
  void add_comm(const std::string& name, int size) {
    index_[name] = sums_.size();
    sums_.push_back({name, 0, 0});
    sizes_.push_back(size);
  }
  void add_call(size_t index, int64_t calls, double bytes) {
    sums_[index].calls += calls;
    sums_[index].wire_bytes += bytes;
  }

  std::map<std::string, size_t> index_;
  std::vector<StepTraffic> sums_;
  std::vector<int> sizes_;
};

/// Calls of the members of one communicator, each with the blocks of its own place in it.
std::vector<std::vector<PlannedCall>> calls_of_members(const Plan& plan, OpId id, size_t axis) {
  Mesh mesh = plan.program.mesh;
  std::vector<std::vector<PlannedCall>> members;
  for (int r = 0; r < mesh.axes[axis].size; ++r) {
    mesh.axes[axis].coordinate = r;
    members.push_back(planned_calls(plan, id, mesh));
  }
  return members;
}

void compare_members(const Op& op, const MeshAxis& axis, const std::vector<std::vector<PlannedCall>>& members) {
  const auto refuse = [&](size_t a, size_t b, const std::string& why) {
    throw InternalError(str_cat("communicator ", axis.name, ": ", what_text(op), ": members ", a, " and ", b,
                                " do not call the same: ", why));
  };
  std::vector<CommCall> calls(members.size());
  for (size_t m = 1; m < members.size(); ++m) {
    if (members[m].size() == members[0].size()) continue;
    refuse(0, m, str_cat(members[0].size(), " calls and ", members[m].size()));
  }
  for (size_t c = 0; c < members[0].size(); ++c) {
    for (size_t m = 0; m < members.size(); ++m) calls[m] = to_call(members[m][c]);
    if (calls[0].op == CommOp::kExchange) {
      for (size_t m = 0; m < members.size(); ++m) {
        if (calls[m].to < 0) continue;
        const auto to = static_cast<size_t>(calls[m].to);
        const bool fits = calls[to].op == CommOp::kExchange && calls[to].from == static_cast<int>(m) &&
                          calls[to].target.dtype == calls[m].source.dtype &&
                          calls[to].target.numel() == calls[m].source.numel();
        if (!fits) refuse(m, to, describe(calls[m]) + "; " + describe(calls[to]));
      }
    } else if (const CallMismatch found = compare_calls(calls)) {
      refuse(found.a, found.b, describe(calls[found.a]) + "; " + describe(calls[found.b]) + found.numbers);
    }
  }
}

}  // namespace

double RankPlan::flops() const {
  double sum = 0;
  for (const ChunkPlan& chunk : train) {
    for (const double flops : chunk.flops) sum += flops;
  }
  return sum;
}

bool RankPlan::same_numbers(const RankPlan& other) const {
  const auto sets = [](const RankPlan& plan) {
    std::vector<int> all;
    for (const ChunkPlan& chunk : plan.train) all.push_back(chunk.slot_sets);
    return all;
  };
  return stage == other.stage && parameters == other.parameters && memory == other.memory && sets(*this) == sets(other);
}

RankPlan rank_plan(const Config& config, const TrainPrograms& programs) {
  RankPlan plan;
  plan.mesh = programs.mesh;
  int64_t stride = 1;
  for (const MeshAxis& axis : plan.mesh.axes) {
    plan.rank += axis.coordinate * stride;
    stride *= axis.size;
    if (axis.name != "pp") continue;
    plan.stage = axis.coordinate;
    plan.stages = axis.size;
  }
  plan.schedule = programs.schedule;
  plan.eval_micro_batches = programs.eval_micro_batches;
  const std::vector<StagePart> parts = split_stages(config.parallel, config.model.num_layers);
  for (size_t p = static_cast<size_t>(plan.stage); p < parts.size(); p += static_cast<size_t>(plan.stages)) {
    plan.parts.push_back(parts[p]);
  }
  plan.parameters = elements_held(programs.held);
  plan.memory = memory_report(programs);
  for (const Plan& chunk : programs.train) plan.train.push_back(chunk_plan(chunk));
  for (const Plan& chunk : programs.eval) plan.eval.push_back(chunk_plan(chunk));
  plan.begin = traffic_of(programs.begin, Phase::kForward);
  plan.update = traffic_of(programs.update, Phase::kForward);
  if (config.parallel.overlap_param_gather) plan.gather = traffic_of(programs.gather, Phase::kForward);
  return plan;
}

std::vector<StepTraffic> step_traffic(const RankPlan& plan, int micro_batches) {
  TrafficSum sum(plan);
  sum.add(plan.begin);
  for (const ChunkPlan& chunk : plan.train) {
    for (const auto& phase : chunk.phases) sum.add(phase, micro_batches - 1);
    if (chunk.received) sum.transfer("pp", micro_batches, 0);
    if (chunk.sent) sum.transfer("pp", micro_batches, static_cast<double>(chunk.sent->bytes()));
    if (chunk.received_gradient) sum.transfer(kPipelineBackward, micro_batches, 0);
    if (chunk.sent_gradient) {
      sum.transfer(kPipelineBackward, micro_batches, static_cast<double>(chunk.sent_gradient->bytes()));
    }
  }
  sum.add(plan.update);
  return sum.result();
}

std::vector<StepTraffic> step_traffic(const Config& config, const TrainPrograms& programs, int micro_batches) {
  return step_traffic(rank_plan(config, programs), micro_batches);
}

std::vector<int> members_of(const RankPlan& plan, const std::string& comm) {
  if (comm == kPipelineBackward) return group_of(plan.mesh, {"pp"});
  if (comm != kPipelineEnds) return group_of(plan.mesh, {comm});
  const std::vector<int> stages = group_of(plan.mesh, {"pp"});
  return {stages.front(), stages.back()};
}

int64_t check_members(const TrainPrograms& programs) {
  int64_t compared = 0;
  for (const Plan* plan : programs.plans()) {
    const Mesh& mesh = plan->program.mesh;
    for (int phase = 0; phase < kPhases; ++phase) {
      for (const OpId id : plan->program.list(static_cast<Phase>(phase))) {
        const Op& op = plan->program.op(id);
        const int axis = mesh.find(op.kind->comm_axis());
        if (axis < 0 || !runs(*plan, id)) continue;
        const auto members = calls_of_members(*plan, id, static_cast<size_t>(axis));
        compare_members(op, mesh.axes[static_cast<size_t>(axis)], members);
        compared += std::ssize(members[0]);
      }
    }
  }
  return compared;
}

}  // namespace megatron
