// What the plan says of communication is what ranks really call: every collective and transfer of a step and an
// evaluation, in its order, with its counts.
#include <mutex>

#include "base/strings.h"
#include "comm/mesh_comms.h"
#include "tests/catch.h"
#include "tests/train/rank_run.h"
#include "train/plan_simulation.h"

namespace megatron::test {
namespace {

struct RecordedCall {
  std::string comm;
  int ranks = 0;
  PlannedCall call;
};

PlannedCall planned(const CommCall& call, int ranks) {
  PlannedCall copy;
  copy.op = call.op;
  copy.reduction = call.reduction;
  copy.to = call.to;
  copy.from = call.op == CommOp::kExchange ? call.from : -1;
  const bool sends = call.op != CommOp::kExchange || call.to >= 0;
  const bool receives = call.op != CommOp::kExchange || call.from >= 0;
  copy.dtype = sends ? call.source.dtype : call.target.dtype;
  copy.sent = sends ? call.source.numel() : 0;
  copy.received = receives ? call.target.numel() : 0;
  const int64_t* counts = call.send_counts != nullptr ? call.send_counts : call.receive_counts;
  if (counts != nullptr) copy.counts.assign(counts, counts + ranks);
  return copy;
}

class CountingComm final : public Comm {
 public:
  CountingComm(Comm& inner, std::vector<RecordedCall>& record) : inner_(inner), record_(record) {}
  CountingComm(std::unique_ptr<Comm> inner, std::vector<RecordedCall>& record)
      : owned_(std::move(inner)), inner_(*owned_), record_(record) {}
  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  const std::string& name() const override { return inner_.name(); }
  void run(const CommCall& call) override {
    record_.push_back({name(), size(), planned(call, size())});
    inner_.run(call);
  }
  std::unique_ptr<Comm> split(int colour, int key, const std::string& name) override {
    return std::make_unique<CountingComm>(inner_.split(colour, key, name), record_);
  }

 private:
  std::unique_ptr<Comm> owned_;
  Comm& inner_;
  std::vector<RecordedCall>& record_;
};

/// Its communicators record what they are called for.
class CountingWorld final : public World {
 public:
  explicit CountingWorld(World& world) : world_(world), comm_(world.host_comm(), record) {}
  const RankInfo& info() const override { return world_.info(); }
  std::vector<std::string> gather(const std::string& bytes) override { return world_.gather(bytes); }
  Comm& host_comm() override { return comm_; }
  void fail(const std::string& reason) noexcept override { world_.fail(reason); }
  void set_timeout(double seconds) override { world_.set_timeout(seconds); }
  bool is_one_process() const override { return world_.is_one_process(); }

  std::vector<RecordedCall> record;

 private:
  World& world_;
  CountingComm comm_;
};

struct TrafficCase {
  const char* name;
  int ranks;
  Settings settings;
};

const std::vector<TrafficCase>& traffic_cases() {
  const std::string tp = "parallel.tensor_model_parallel_size", pp = "parallel.pipeline_model_parallel_size",
                    cp = "parallel.context_parallel_size", zero = "parallel.data_parallel_sharding_strategy",
                    sp = "parallel.sequence_parallel", chunks = "parallel.num_virtual_stages_per_pipeline_rank";
  static const std::vector<TrafficCase> cases = {
      {"tp2", 2, {{tp, "2"}}},
      {"tp2, sp", 2, {{tp, "2"}, {sp, "true"}}},
      {"tp3 of sizes that do not divide",
       3,
       {{tp, "3"},
        {sp, "true"},
        {"model.num_attention_heads", "4"},
        {"model.num_query_groups", "4"},
        {"model.ffn_hidden_size", "10"}}},
      {"dp2", 2, {}},
      {"dp2, overlap", 2, {{"parallel.overlap_grad_reduce", "true"}}},
      {"dp2, ZeRO-1", 2, {{zero, "optim"}}},
      {"dp2, ZeRO-1, overlap",
       2,
       {{zero, "optim"}, {"parallel.overlap_grad_reduce", "true"}, {"parallel.overlap_param_gather", "true"}}},
      {"tp2 x dp2, overlap",
       4,
       {{tp, "2"},
        {zero, "optim"},
        {"parallel.overlap_grad_reduce", "true"},
        {"parallel.overlap_param_gather", "true"}}},
      {"dp4, ZeRO-2", 4, {{zero, "optim_grads"}}},
      {"dp2, ZeRO-3", 2, {{zero, "optim_grads_params"}}},
      {"cp2", 2, {{cp, "2"}}},
      {"cp2, all_gather", 2, {{cp, "2"}, {"parallel.cp_comm_type", "[all_gather]"}}},
      {"cp2, a2a", 2, {{cp, "2"}, {"parallel.cp_comm_type", "[a2a]"}}},
      {"pp2", 2, {{pp, "2"}}},
      {"pp2 of tied embeddings", 2, {{pp, "2"}, {"model.untie_embeddings_and_output_weights", "false"}}},
      {"pp2, two chunks", 2, {{pp, "2"}, {chunks, "2"}}},
      {"pp4, zero-bubble", 4, {{pp, "4"}, {"parallel.pipeline_schedule", "zero-bubble"}}},
      {"tp2 x pp2, sp", 4, {{tp, "2"}, {pp, "2"}, {sp, "true"}}},
      {"pp2 x dp2, ZeRO-3, two chunks", 4, {{pp, "2"}, {zero, "optim_grads_params"}, {chunks, "2"}}},
      {"tp2 x cp2 x pp2, sp, ZeRO-1", 8, {{tp, "2"}, {cp, "2"}, {pp, "2"}, {sp, "true"}, {zero, "optim"}}},
      {"tp2 x pp2, recomputed",
       4,
       {{tp, "2"},
        {pp, "2"},
        {sp, "true"},
        {"training.recompute_granularity", "full"},
        {"training.recompute_method", "uniform"},
        {"training.recompute_num_layers", "1"}}},
      {"tp2 in pieces", 2, {{tp, "2"}, {sp, "true"}, {"parallel.tp_comm_overlap", "true"}}},
      {"dp4 of two instances", 4, {{zero, "optim"}, {"parallel.num_distributed_optimizer_instances", "2"}}},
      {"dp2, sums in bf16", 2, {{"precision.params_dtype", "bf16"}, {"precision.grad_reduce_in_bf16", "true"}}},
      {"cp4, a2a and p2p",
       4,
       {{cp, "4"},
        {"parallel.cp_comm_type", "[a2a+p2p]"},
        {"parallel.hierarchical_context_parallel_sizes", "[2, 2]"},
        {"model.seq_length", "16"},
        {"model.max_position_embeddings", "16"}}},
  };
  return cases;
}

std::vector<StepTraffic> sums_of(const std::vector<RecordedCall>& record, const Mesh& mesh) {
  std::vector<StepTraffic> sums;
  for (const MeshAxis& axis : mesh.axes) sums.push_back({axis.name, 0, 0});
  sums.push_back({kPipelineBackward, 0, 0});
  sums.push_back({kPipelineEnds, 0, 0});
  for (const RecordedCall& call : record) {
    for (StepTraffic& sum : sums) {
      if (sum.comm != call.comm) continue;
      ++sum.calls;
      sum.wire_bytes += wire_bytes(call.call, call.ranks);
    }
  }
  std::erase_if(sums, [](const StepTraffic& sum) { return sum.calls == 0; });
  return sums;
}

/// A step and an evaluation of a rank: what it called, and how much of that is the step.
struct Recorded {
  std::vector<RecordedCall> calls;
  size_t step = 0;
};

Recorded record_rank(const Settings& settings, World& world) {
  CountingWorld counting(world);
  RankRun run(settings, counting);
  counting.record.clear();
  run.accumulate_first();
  UpdateInputs in;
  in.learning_rates.assign(run.engine().programs().groups.size(), 1e-3);
  run.engine().update(in);
  run.engine().take_result();
  const size_t step = counting.record.size();
  run.engine().begin_evaluation();
  const auto batches = static_cast<size_t>(run.engine().programs().eval_micro_batches);
  run.engine().evaluate(std::vector<Batch>(batches, run.first_batch()));
  return {counting.record, step};
}

void check_script(const PaperRun& paper, size_t rank, const std::vector<RecordedCall>& real) {
  const PaperScript& script = paper.scripts[rank];
  REQUIRE(script.rank == static_cast<int64_t>(rank));
  for (size_t i = 0; i < std::min(script.calls.size(), real.size()); ++i) {
    const PaperCall& call = script.calls[i];
    INFO(i << ": " << paper.texts.text(call.moment) << ", " << paper.texts.text(call.what) << ": "
           << describe(*call.call) << "; really " << describe(real[i].call));
    REQUIRE(paper.comms[static_cast<size_t>(call.comm)].name == real[i].comm);
    REQUIRE(*call.call == real[i].call);
  }
  CHECK(script.calls.size() == real.size());
}

}  // namespace

TEST_CASE("plan: every collective of a step and an evaluation, in order, and their sums are what ranks really call") {
  for (const TrafficCase& c : traffic_cases()) {
    INFO(c.name);
    Settings settings = exact({{"model.num_layers", "4"}, {"parallel.ddp_bucket_size", "500"}});
    for (const auto& [key, value] : c.settings) settings[key] = value;
    std::mutex mutex;
    std::vector<Recorded> recorded(static_cast<size_t>(c.ranks));
    run_thread_ranks(c.ranks, [&](World& world) {
      Recorded one = record_rank(settings, world);
      const std::lock_guard lock(mutex);
      recorded[static_cast<size_t>(world.rank())] = std::move(one);
    });

    const Config config = load_settings(settings, c.ranks).config;
    const RankPlans ranks =
        plan_ranks(config, open_data(config).vocab_size, c.ranks, planned_ranks(config, c.ranks), true);
    const SimulationReport report = prove(config, ranks);
    CHECK(report.ranks == c.ranks);
    CHECK(report.paper.alone == 0);
    CHECK(report.paper.collectives > 0);
    const int micro_batches = step_sizes(config, data_parallel_size(ranks.plans[0].mesh)).back();
    const PipelineSchedule step = schedule_of(ranks.plans[0], micro_batches, true);
    const PipelineSchedule evaluation = schedule_of(ranks.plans[0], ranks.plans[0].eval_micro_batches, false);
    const PaperRun paper = make_paper_run(ranks.plans, step, evaluation);
    for (size_t r = 0; r < recorded.size(); ++r) {
      INFO("rank " << r);
      std::vector<RecordedCall>& calls = recorded[r].calls;
      check_script(paper, r, calls);
      calls.resize(recorded[r].step);
      const std::vector<StepTraffic> wanted = sums_of(calls, ranks.plans[r].mesh);
      const std::vector<StepTraffic> told = step_traffic(ranks.plans[r], micro_batches);
      REQUIRE(told.size() == wanted.size());
      for (size_t i = 0; i < told.size(); ++i) {
        CHECK(told[i].comm == wanted[i].comm);
        CHECK(told[i].calls == wanted[i].calls);
        CHECK(told[i].wire_bytes == Approx(wanted[i].wire_bytes).epsilon(1e-12));  // added in another order
      }
    }
  }
}

}  // namespace megatron::test
