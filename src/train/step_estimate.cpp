#include "train/step_estimate.h"

#include <algorithm>
#include <map>

#include "base/check.h"
#include "base/strings.h"
#include "parallel/pipeline_schedule.h"
#include "program/planned_call.h"
#include "train/metrics.h"

namespace megatron {
namespace {

/// The groups along `axis` of the whole mesh; ranks are numbered node by node.
GroupPlace place_of(const Mesh& world, const std::string& axis, int64_t gpus_per_node) {
  const auto near = [&](int64_t stride, int size) {
    const int64_t fit = stride >= gpus_per_node ? 1 : gpus_per_node / stride;
    return GroupPlace{size, static_cast<int>(std::clamp<int64_t>(fit, 1, size))};
  };
  int64_t stride = 1;
  for (const MeshAxis& a : world.axes) {
    if (a.name == axis) return near(stride, a.size);
    stride *= a.size;
  }
  return near(stride / 2, 2);  // the first and the last stage
}

struct OpTimes {
  double compute = 0, communication = 0;
  double total() const { return compute + communication; }
};

/// Seconds of the operations of plans, on one machine.
class Timer {
 public:
  Timer(const MachineProfile& machine, const Mesh& world, DType dtype, std::set<std::string>* unmeasured)
      : machine_(machine), world_(world), dtype_(dtype), unmeasured_(unmeasured) {}

  OpTimes time(const Plan& plan, OpId id) {
    const Op& op = plan.program.op(id);
    if (joins_in_place(plan, id)) return {};
    const OpShapes shapes = shapes_of(plan.program, op);
    const Cost cost = op.kind->cost(shapes.context());
    OpTimes times;
    if (!op.kind->comm_axis().empty()) times.communication = communication(plan, id, cost.flops > 0);
    if (op.kind->comm_axis().empty() || cost.flops > 0 || times.communication == 0) {
      const std::string name = op.kind->speed_class(shapes.context());
      if (!machine_.measured(name, dtype_) && unmeasured_ != nullptr) unmeasured_->insert(name);
      times.compute = machine_.config().sustained * machine_.operation(name, dtype_, cost);
    }
    return times;
  }

 private:
  /// Calls of one collective go in a group; those that an operation makes while it computes come one after another.
  double communication(const Plan& plan, OpId id, bool apart) {
    const GroupPlace place = place_of(world_, plan.program.op(id).kind->comm_axis(), machine_.config().gpus_per_node);
    std::map<std::string, double> bytes;
    double seconds = 0;
    for (const PlannedCall& call : planned_calls(plan, id, plan.program.mesh)) {
      const double sent = wire_bytes(call, place.ranks);
      if (apart) {
        seconds += machine_.collective(collective_name(call.op), place, sent);
      } else {
        bytes[collective_name(call.op)] += sent;
      }
    }
    for (const auto& [kind, sent] : bytes) seconds += machine_.collective(kind, place, sent);
    return seconds;
  }

  const MachineProfile& machine_;
  const Mesh& world_;
  DType dtype_;
  std::set<std::string>* unmeasured_;
};

PhaseEstimate run_on_paper(const Plan& plan, Phase phase, bool edge, Timer& timer) {
  PhaseEstimate estimate;
  double free[Device::kStreams] = {};
  std::map<OpId, double> done;
  const auto& waits = edge ? plan.waits : plan.inner_waits;
  for (OpId id : plan.program.list(phase)) {
    const Op& op = plan.program.op(id);
    if (!runs(plan, id) || (op.edge && !edge)) continue;
    const OpTimes times = timer.time(plan, id);
    double& stream = free[static_cast<size_t>(op.stream)];
    for (OpId before : waits[static_cast<size_t>(id)]) {
      const auto found = done.find(before);
      if (found != done.end()) stream = std::max(stream, found->second);
    }
    stream += times.total();
    done[id] = stream;
    estimate.compute += times.compute;
    estimate.communication += times.communication;
  }
  estimate.seconds = *std::max_element(std::begin(free), std::end(free));
  return estimate;
}

/// Both kinds of micro-batches of one chunk.
struct ChunkEstimate {
  std::array<PhaseEstimate, kPhases> inner, edge;
};

ChunkEstimate estimate_chunk(const Plan& plan, Timer& timer) {
  ChunkEstimate chunk;
  for (int p = 0; p < kPhases; ++p) {
    const auto phase = static_cast<Phase>(p);
    const auto& list = plan.program.list(phase);
    const auto i = static_cast<size_t>(p);
    chunk.inner[i] = run_on_paper(plan, phase, false, timer);
    const bool edges = std::any_of(list.begin(), list.end(), [&](OpId id) { return plan.program.op(id).edge; });
    chunk.edge[i] = edges ? run_on_paper(plan, phase, true, timer) : chunk.inner[i];
  }
  return chunk;
}

/// Seconds from one stage to the next.
double transfer_seconds(const TrainPrograms& programs, const MachineProfile& machine) {
  for (const Plan& plan : programs.train) {
    if (plan.program.sent.empty()) continue;
    const GroupPlace place = place_of(programs.mesh, "pp", machine.config().gpus_per_node);
    return machine.collective("send/receive", place,
                              static_cast<double>(plan.program.local_bytes(plan.program.sent.front().value)));
  }
  return 0;
}

}  // namespace

PhaseEstimate estimate_phase(const Plan& plan, Phase phase, bool edge, DType dtype, const MachineProfile& machine,
                             const Mesh& world, std::set<std::string>* unmeasured) {
  Timer timer(machine, world, dtype, unmeasured);
  return run_on_paper(plan, phase, edge, timer);
}

StageEstimate estimate_stage(const TrainPrograms& programs, const MachineProfile& machine) {
  StageEstimate stage;
  Timer timer(machine, programs.mesh, programs.spec.dtype, &stage.unmeasured);
  const auto add = [&](const PhaseEstimate& phase, double times) {
    stage.compute += times * phase.compute;
    stage.communication += times * phase.communication;
    stage.exposed += times * (phase.seconds - phase.compute);
  };
  for (const Plan& plan : programs.train) {
    const ChunkEstimate chunk = estimate_chunk(plan, timer);
    ChunkTimes& times = stage.chunks.emplace_back();
    for (size_t p = 0; p < kPhases; ++p) {
      times.inner[p] = chunk.inner[p].seconds;
      times.edge[p] = chunk.edge[p].seconds;
      add(chunk.inner[p], programs.micro_batches - 1);
      add(chunk.edge[p], 1);
    }
  }
  for (const Plan* plan : {&programs.begin, &programs.update}) {
    const PhaseEstimate phase = run_on_paper(*plan, Phase::kForward, true, timer);
    stage.begin_update += phase.seconds;
    add(phase, 1);
  }
  stage.transfer = transfer_seconds(programs, machine);
  return stage;
}

StepEstimate estimate_step(const TrainPrograms& programs, const std::vector<StageEstimate>& stages) {
  MEGATRON_CHECK(!stages.empty(), "there is no stage");
  StepEstimate estimate;
  PhaseTimes times;
  double begin_update = 0;
  for (const StageEstimate& stage : stages) {
    times.chunks.push_back(stage.chunks);
    times.transfer = std::max(times.transfer, stage.transfer);
    begin_update = std::max(begin_update, stage.begin_update);
    estimate.unmeasured.insert(stage.unmeasured.begin(), stage.unmeasured.end());
  }
  const PipelineSchedule schedule = schedule_of(programs, programs.micro_batches, true);
  estimate.seconds = simulate(schedule, times).seconds + begin_update;
  estimate.busiest = *std::max_element(
      stages.begin(), stages.end(),
      [](const StageEstimate& a, const StageEstimate& b) { return a.compute + a.exposed < b.compute + b.exposed; });
  estimate.bubble = std::max(0.0, estimate.seconds - estimate.busiest.compute - estimate.busiest.exposed);
  return estimate;
}

std::string describe_estimate(const Config& config, const TrainPrograms& programs, const StepEstimate& estimate,
                              const MachineProfile& machine) {
  const auto share = [&](double seconds) {
    return str_cat(static_cast<int>(1000 * seconds / estimate.seconds + 0.5) / 10.0, " %");
  };
  const auto milliseconds = [](double seconds) {
    return str_cat(static_cast<double>(static_cast<int64_t>(seconds * 1e4 + 0.5)) / 10.0, " ms");
  };
  const int64_t tokens = config.training.global_batch_size * programs.spec.seq_length;
  StepMetrics rates;
  rates.step_seconds = estimate.seconds;
  set_rates(rates, tokens, flops_per_token(programs.spec) * static_cast<double>(tokens), programs.mesh.world_size(),
            dense_peak_flops(machine.config().device, programs.spec.dtype));
  std::string text = str_cat("time         ", milliseconds(estimate.seconds), " a step on ", machine.config().device,
                             ", ", format_count(rates.tokens_per_second), " tokens/s of all ranks");
  if (rates.tflops_per_gpu) text += str_cat(", ", static_cast<int>(*rates.tflops_per_gpu + 0.5), " TFLOP/s a GPU");
  if (rates.mfu) text += str_cat(", MFU ", static_cast<int>(1000 * *rates.mfu + 0.5) / 10.0, " %");
  text += str_cat("\n             computing ", share(estimate.busiest.compute), ", waiting for collectives ",
                  share(estimate.busiest.exposed), " (they take ", milliseconds(estimate.busiest.communication),
                  "), for other stages ", share(estimate.bubble), "; optimizer and zeroing ",
                  milliseconds(estimate.busiest.begin_update), "\n");
  if (!estimate.unmeasured.empty()) {
    text += str_cat("             without a measured figure, reckoned like others: ",
                    join({estimate.unmeasured.begin(), estimate.unmeasured.end()}, ", "), "\n");
  }
  const MachineConfig& m = machine.config();
  if (programs.mesh.world_size() > m.gpus_per_node) {
    text += str_cat("             between nodes of ", m.gpus_per_node, " GPUs: assumed ", m.network_bandwidth * 1e-9,
                    " GB/s for each GPU (machine.network_bandwidth)\n");
  }
  return text;
}

}  // namespace megatron
