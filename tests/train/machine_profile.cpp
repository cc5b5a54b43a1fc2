// What was measured of a machine, and the time of a step that follows from it.
#include "train/machine_profile.h"

#include <cmath>

#include "base/error.h"
#include "base/strings.h"
#include "config/load.h"
#include "parallel/mesh.h"
#include "tests/catch.h"
#include "tests/train/trainer_helpers.h"
#include "train/step_estimate.h"

namespace megatron::test {
namespace {

/// 1 TFLOP/s, 1 GB/s, 1 us.
MachineConfig machine() {
  MachineConfig m;
  m.device = "made up";
  m.matrix_flops = 1e12;
  m.copy_bandwidth = 1e9;
  m.launch_seconds = 1e-6;
  m.operations = {"linear bf16 1e12 1e6 2", "linear bf16 2e9 1e6 0.008", "norm bf16 1e3 1e9 1.5"};
  m.collectives = {"all_reduce 2 1e6 0.001", "all_reduce 2 1e9 0.1", "send/receive 2 1e6 0.0001"};
  return m;
}

/// Operations take nothing but their launch.
MachineConfig launches_only(double seconds) {
  MachineConfig m;
  m.device = "made up";
  m.matrix_flops = m.copy_bandwidth = 1e40;
  m.launch_seconds = seconds;
  m.operations = {"linear bf16 1e12 1e6 2"};
  return m;
}

void refuses(MachineConfig m, const std::string& words) {
  INFO(words);
  std::string said;
  try {
    MachineProfile profile(m);
  } catch (const UsageError& error) {
    said = error.what();
  }
  INFO(said);
  CHECK(said.find(words) != std::string::npos);
}

struct Planned {
  LoadedConfig loaded;
  std::vector<TrainPrograms> stages;
  StepEstimate on(const MachineProfile& profile) const {
    std::vector<StageEstimate> all;
    for (const TrainPrograms& programs : stages) all.push_back(estimate_stage(programs, profile));
    return estimate_step(stages.front(), all);
  }
};

Planned plan_of(const Settings& changes, int64_t world = 1, int64_t stages = 1) {
  Planned planned{load_settings(tiny(changes), world), {}};
  for (int64_t s = 0; s < stages; ++s) {
    const ParallelContext parallel = make_parallel_context(planned.loaded.config, world, s * world / stages);
    planned.stages.push_back(make_train_programs(planned.loaded.config, 64, parallel));
  }
  return planned;
}

/// Operations that one micro-batch runs.
int64_t count(const Plan& plan, bool edge) {
  int64_t n = 0;
  for (int p = 0; p < kPhases; ++p) {
    for (OpId id : plan.program.list(static_cast<Phase>(p))) {
      if (runs(plan, id) && !joins_in_place(plan, id) && (edge || !plan.program.op(id).edge)) ++n;
    }
  }
  return n;
}

TEST_CASE("machine profile: a measured operation takes what was measured, others what lies between") {
  const MachineProfile profile(machine());
  CHECK(profile.operation("linear", DType::kBF16, {1e12, 1e6, 0}) == Approx(2).epsilon(1e-3));
  CHECK(profile.operation("linear", DType::kBF16, {2e9, 1e6, 0}) == Approx(0.008).epsilon(1e-3));
  // Twice the floor at one point, four times at the other: between them in the middle of the logarithms.
  const double middle = profile.operation("linear", DType::kBF16, {std::sqrt(2e21), 1e6, 0});
  CHECK(middle == Approx(std::sqrt(2e21) / 1e12 * std::sqrt(8.0)).epsilon(1e-2));
  CHECK(profile.operation("norm", DType::kBF16, {0, 2e9, 0}) == Approx(3).epsilon(1e-3));
  CHECK(profile.operation("norm", DType::kBF16, {0, 0, 0}) == Approx(1e-6));
  CHECK(profile.measured("norm", DType::kBF16));
  CHECK_FALSE(profile.measured("norm", DType::kF32));
  CHECK(profile.operation("unknown", DType::kBF16, {0, 1e9, 0}) ==
        Approx(1.5).epsilon(1e-3));  // as the only one that moves
}

TEST_CASE("machine profile: collectives by the bytes on a link, within a node and between nodes") {
  const MachineProfile profile(machine());
  CHECK(profile.collective("all_reduce", {2, 2}, 1e6) == Approx(0.001));
  CHECK(profile.collective("all_reduce", {2, 2}, 1e9) == Approx(0.1));
  CHECK(profile.collective("all_reduce", {2, 2}, std::sqrt(1e15)) == Approx(0.01));
  CHECK(profile.collective("all_reduce", {2, 2}, 1) == Approx(0.001));
  CHECK(profile.collective("all_reduce", {2, 2}, 2e9) == Approx(0.2));
  CHECK(profile.collective("all_reduce", {4, 4}, 1e9) == Approx(0.1));  // the nearest number of ranks
  MachineConfig slow = machine();
  slow.network_bandwidth = 1e9;
  slow.network_seconds = 0.5;
  const MachineProfile nodes(slow);
  CHECK(nodes.collective("all_reduce", {8, 2}, 1e9) == Approx(2 * 0.5 + 0.5));  // 4 nodes; two GPUs share the traffic
  CHECK(nodes.collective("all_reduce", {4, 1}, 1e9) == Approx(2 * 0.5 + 1));
  CHECK(nodes.collective("all_reduce", {1, 1}, 1e9) == Approx(1e-6));
  CHECK_THROWS_AS(nodes.collective("all_to_all", {2, 2}, 1e9), UsageError);
}

TEST_CASE("machine profile: entries that cannot be read are named") {
  const auto with = [](const std::string& operation, const std::string& collective) {
    MachineConfig m = machine();
    if (!operation.empty()) m.operations.push_back(operation);
    if (!collective.empty()) m.collectives.push_back(collective);
    return m;
  };
  refuses({}, "section machine: a step's time needs device");
  refuses(with("linear bf16 1 2", ""), "'linear bf16 1 2': expected \"KIND DTYPE FLOPS BYTES SECONDS\"");
  refuses(with("linear bf17 1 2 3", ""), "bf17");
  refuses(with("linear bf16 1 two 3", ""), "BYTES must be a number that is not negative, not 'two'");
  refuses(with("linear bf16 1 2 -3", ""), "SECONDS must be");
  refuses(with("linear bf16 1 2 nan", ""), "SECONDS must be");
  refuses(with("", "all_reduced 2 1 1"), "KIND must be one of all_reduce");
  refuses(with("", "all_reduce 1 1 1"), "RANKS must be 2 or more");
  refuses(with("", "all_reduce 2 0 1"), "BYTES and SECONDS must be above 0");
  for (const std::string& entry : machine().operations) CHECK_NOTHROW(with(entry, ""));
  const OperationPoint point{"linear", DType::kBF16, 1e12, 1e6, 2};
  MachineConfig again = machine();
  again.operations = {to_text(point)};
  CHECK(read_operations(again).at(0).flops == 1e12);
  CHECK(read_operations(again).at(0).seconds == 2);
}

TEST_CASE("machine profile: the section is a file of its own that reads back") {
  Config config;
  config.machine = machine();
  for (int i = 0; i < 9; ++i) config.machine.operations.push_back("rope bf16 1 2 3");
  const std::string text = section_to_yaml(config, "machine");
  CHECK(text.starts_with("machine:\n  device: \"made up\"\n"));
  CHECK(text.find("network_bandwidth") == std::string::npos);
  CHECK(text.find("    - \"rope bf16 1 2 3\"\n") != std::string::npos);
  LoadOptions piece;
  piece.check_rules = false;
  CHECK(load_config_text(text, "machine.yaml", piece).config.machine == config.machine);
}

TEST_CASE("estimated step: every operation that runs is counted once for each time it runs") {
  const Planned planned = plan_of({{"training.global_batch_size", "12"}, {"training.micro_batch_size", "4"}});
  const TrainPrograms& programs = planned.stages[0];
  REQUIRE(programs.micro_batches == 3);
  const StepEstimate estimate = planned.on(MachineProfile(launches_only(1e-3)));
  const int64_t launches =
      3 * count(programs.train[0], true) + count(programs.begin, true) + count(programs.update, true);
  CHECK(launches > 30);
  CHECK(estimate.seconds == Approx(1e-3 * static_cast<double>(launches)));
  CHECK(estimate.busiest.compute == Approx(estimate.seconds));
  CHECK(estimate.bubble == Approx(0).margin(1e-9));
  CHECK(estimate.busiest.begin_update ==
        Approx(1e-3 * static_cast<double>(count(programs.begin, true) + count(programs.update, true))));
  CHECK(estimate.unmeasured.count("linear_dgrad") == 1);
  const std::string text =
      describe_estimate(planned.loaded.config, programs, estimate, MachineProfile(launches_only(1e-3)));
  INFO(text);
  CHECK(text.find(" ms a step on made up, ") != std::string::npos);
  CHECK(text.find("computing 100 %") != std::string::npos);
}

TEST_CASE("estimated step: FLOPs over the peak") {
  MachineConfig m = launches_only(0);
  m.matrix_flops = 1e9;
  m.operations = {"linear fp32 1e12 1 1000", "linear_dgrad fp32 1e12 1 2000", "linear_wgrad fp32 1e12 1 1000"};
  const Planned planned = plan_of({{"training.global_batch_size", "4"}, {"training.micro_batch_size", "4"}});
  const Plan& plan = planned.stages[0].train[0];
  double seconds = 0;
  for (const Phase phase : {Phase::kForward, Phase::kBackward}) {
    seconds = seconds + estimate_phase(plan, phase, true, DType::kF32, MachineProfile(m), {}).seconds;
  }
  double expected = 0;
  for (const Phase phase : {Phase::kForward, Phase::kBackward}) {
    for (OpId id : plan.program.list(phase)) {
      const Op& op = plan.program.op(id);
      if (!runs(plan, id)) continue;
      const double flops = op.kind->cost(shapes_of(plan.program, op).context()).flops;
      expected += flops / 1e9 * (op.kind->name() == "linear_dgrad" ? 2 : 1);
    }
  }
  CHECK(expected > 0);
  CHECK(seconds == Approx(expected).epsilon(1e-6));
}

TEST_CASE("estimated step: collectives beside computation are waited for where nothing else is left to do") {
  MachineConfig m = launches_only(1e-3);
  for (const char* kind : {"all_reduce", "all_gather", "reduce_scatter", "send/receive"}) {
    m.collectives.push_back(str_cat(kind, " 2 1 0.004"));
    m.collectives.push_back(str_cat(kind, " 2 1e12 0.004"));
  }
  const MachineProfile profile(m);
  const auto estimate = [&](const Settings& changes) {
    Settings settings = {{"training.global_batch_size", "24"}, {"training.micro_batch_size", "4"}};  // three of them
    settings.insert(changes.begin(), changes.end());
    return plan_of(settings, 2).on(profile);
  };
  const StepEstimate after = estimate({{"parallel.ddp_bucket_size", "2000"}});
  const StepEstimate beside =
      estimate({{"parallel.ddp_bucket_size", "2000"}, {"parallel.overlap_grad_reduce", "true"}});
  CHECK(after.busiest.communication >= 2 * 0.004);
  CHECK(beside.busiest.communication == Approx(after.busiest.communication));
  CHECK(after.busiest.exposed <= Approx(after.busiest.communication));
  CHECK(beside.busiest.exposed < after.busiest.exposed);
  CHECK(beside.busiest.exposed >= 0);
  CHECK(beside.seconds == Approx(beside.busiest.compute + beside.busiest.exposed));
  CHECK(after.seconds - beside.seconds == Approx(after.busiest.exposed - beside.busiest.exposed));
}

TEST_CASE("estimated step: stages wait for each other, and for what crosses between them") {
  MachineConfig m = launches_only(1e-3);
  m.collectives = {"all_reduce 2 1 1e-9", "all_reduce 2 1e12 1e-9", "send/receive 2 1 1e-9",
                   "send/receive 2 1e12 1e-9"};
  Settings settings = {{"training.global_batch_size", "16"},
                       {"training.micro_batch_size", "4"},
                       {"parallel.pipeline_model_parallel_size", "2"}};
  const Planned planned = plan_of(settings, 2, 2);
  const StepEstimate free = planned.on(MachineProfile(m));
  CHECK(free.bubble > 0);
  CHECK(free.seconds == Approx(free.busiest.compute + free.busiest.exposed + free.bubble));
  m.collectives[2] = "send/receive 2 1 0.02";
  m.collectives[3] = "send/receive 2 1e12 0.02";
  const StepEstimate slow = planned.on(MachineProfile(m));
  CHECK(slow.busiest.compute == Approx(free.busiest.compute));
  CHECK(slow.seconds > free.seconds + 2 * 0.02);  // at least there and back once
}

}  // namespace
}  // namespace megatron::test
