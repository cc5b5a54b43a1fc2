// The program itself under mpirun: equal to one rank, resumable on any mesh, and it ends when a rank does.
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/file_io.h"
#include "base/strings.h"
#include "comm/launch.h"
#include "tests/catch.h"
#include "tests/comm/jobs.h"
#include "tests/train/trainer_helpers.h"

namespace megatron::test {
namespace {

using tiny::JobResult;

struct Layout {
  const char* name;
  int ranks;
  const char* settings;
};
constexpr Layout kLayouts[] = {
    {"dp2", 2, ""},
    {"tp2", 2, " --set parallel.tensor_model_parallel_size=2"},
    {"tp2sp", 2, " --set parallel.tensor_model_parallel_size=2 --set parallel.sequence_parallel=true"},
    {"tp2dp2", 4, " --set parallel.tensor_model_parallel_size=2 --set parallel.sequence_parallel=true"},
    {"pp2", 2, " --set parallel.pipeline_model_parallel_size=2"},
    {"pp2dp2", 4,
     " --set parallel.pipeline_model_parallel_size=2 --set parallel.pipeline_schedule=zero-bubble --set "
     "parallel.decoder_first_pipeline_num_layers=1 --set parallel.use_distributed_optimizer=true --set "
     "parallel.overlap_grad_reduce=true --set parallel.overlap_param_gather=true"},
    {"cp2", 2, " --set parallel.context_parallel_size=2"},
    {"cp2dp2", 4,
     " --set parallel.context_parallel_size=2 --set parallel.cp_comm_type=[a2a] --set "
     "parallel.use_distributed_optimizer=true --set parallel.overlap_grad_reduce=true --set "
     "parallel.overlap_param_gather=true --set checkpoint.async_save=true"},
};

/// Runs the program on settings in a folder of its own.
class Jobs {
 public:
  explicit Jobs(const Settings& changes) {
    Settings settings = tiny({{"precision.params_dtype", "fp64"},
                              {"model.num_query_groups", "2"},
                              {"training.global_batch_size", "8"},
                              {"training.train_iters", "10"},
                              {"training.eval_interval", "5"},
                              {"training.eval_iters", "1"},
                              {"optimizer.clip_grad", "0.5"},
                              {"checkpoint.save_interval", "5"},
                              {"logging.log_level", "info"}});
    for (const auto& [key, value] : changes) settings[key] = value;
    std::ofstream(scratch_.path("run.yaml")) << yaml_text(settings);
  }

  std::string dir(const std::string& run) const { return scratch_.path(run); }
  std::string command(const std::string& run, const std::string& more) const {
    return str_cat(MEGATRON_BINARY, " pretrain --config ", scratch_.path("run.yaml"), " --set run.dir=", dir(run),
                   more);
  }
  JobResult alone(const std::string& run, const std::string& more = "") const {
    return tiny::run_shell(command(run, more));
  }
  JobResult job(const std::string& run, const Layout& layout, const std::string& more = "") const {
    return tiny::run_mpirun(layout.ranks, command(run, layout.settings + more));
  }
  bool has(const std::string& name) const { return path_exists(scratch_.path(name)); }
  std::string read(const std::string& name) const { return read_file(scratch_.path(name)); }

 private:
  Scratch scratch_;
};

/// Largest relative difference of what two runs report.
double metrics_difference(const std::string& a, const std::string& b) {
  const auto left = read_metrics(a), right = read_metrics(b);
  if (left.size() != right.size() || left.size() < 10) return INFINITY;
  double worst = 0;
  const auto compare = [&](double x, double y) { worst = std::max(worst, std::abs(x - y) / std::abs(y)); };
  for (const auto& [iteration, line] : left) {
    const MetricsLine& other = right.at(iteration);
    if (iteration > 0) compare(line.lm_loss, other.lm_loss);
    if (iteration > 0) compare(line.grad_norm, other.grad_norm);
    if (line.valid_lm_loss.has_value() != other.valid_lm_loss.has_value()) return INFINITY;
    if (line.valid_lm_loss) compare(*line.valid_lm_loss, *other.valid_lm_loss);
    if (line.consumed_samples != other.consumed_samples) return INFINITY;
  }
  return std::isfinite(worst) ? worst : INFINITY;
}

bool can_start() {
  if (has_mpi() && tiny::have_mpirun()) return true;
  WARN("no MPI in this build, or no mpirun: not tested");
  return false;
}

}  // namespace

TEST_CASE("jobs: every mesh reports what one rank reports, and goes on from its own checkpoint bit by bit", "[full]") {
  if (!can_start()) return;
  const Jobs jobs({});
  REQUIRE(jobs.alone("one").code == 0);
  for (const Layout& layout : kLayouts) {
    const std::string name = layout.name, stopped = name + "-stopped";
    INFO(name);
    const JobResult straight = jobs.job(name, layout);
    INFO(straight.output);
    REQUIRE(straight.code == 0);
    CHECK(metrics_difference(jobs.dir(name), jobs.dir("one")) < 1e-10);
    CHECK(straight.count("saved ") == 2);  // rank 0 alone speaks
    CHECK(jobs.job(stopped, layout, " --set run.exit_interval=5").code == 75);
    CHECK(jobs.read(stopped + "/logs/exit_status-rank-0001.json").find("\"code\": 75") != std::string::npos);
    const JobResult resumed = jobs.job(stopped, layout);
    CHECK(resumed.code == 0);
    CHECK(resumed.count("iteration 5, 40 samples consumed") == 1);
    CHECK(metrics_difference(jobs.dir(stopped), jobs.dir(name)) == 0);
    CHECK(difference(checkpoint_weights(jobs.dir(stopped + "/checkpoints")),
                     checkpoint_weights(jobs.dir(name + "/checkpoints"))) == "");
    CHECK(jobs.has(name + "/checkpoints/iter_0000010/shard-00001-00000.safetensors"));
    CHECK(jobs.has(name + "/logs/rank-0001.log"));
  }
}

TEST_CASE("jobs: a checkpoint of any mesh goes on on any other", "[full]") {
  if (!can_start()) return;
  const Jobs jobs({});
  REQUIRE(jobs.alone("one").code == 0);
  const Layout one = {"one", 1, ""};
  const Layout* const from[] = {&one, &kLayouts[3], &kLayouts[0], &kLayouts[2], &kLayouts[4], &one, &kLayouts[1]};
  const Layout* const to[] = {&kLayouts[3], &one, &kLayouts[1], &kLayouts[0], &one, &kLayouts[5], &kLayouts[4]};
  for (size_t i = 0; i < std::size(from); ++i) {
    const std::string name = str_cat(from[i]->name, "-to-", to[i]->name);
    INFO(name);
    CHECK(jobs.job(name, *from[i], " --set run.exit_interval=5").code == 75);
    const JobResult resumed = jobs.job(name, *to[i]);
    INFO(resumed.output);
    CHECK(resumed.code == 0);
    CHECK(resumed.count("resumed from") == 1);
    CHECK(metrics_difference(jobs.dir(name), jobs.dir("one")) < 1e-10);
  }
}

TEST_CASE("jobs: saves in the background of several ranks are those in the foreground", "[full]") {
  if (!can_start()) return;
  const Jobs jobs(Settings{{"checkpoint.save_interval", "1"}, {"training.train_iters", "30"}});
  const JobResult sync = jobs.job("sync", kLayouts[3]);
  const JobResult async = jobs.job("async", kLayouts[3], " --set checkpoint.async_save=true");
  INFO(async.output);
  REQUIRE(sync.code == 0);
  REQUIRE(async.code == 0);
  CHECK(async.count("saved ") == 30);
  CHECK(async.count("info: saving iteration ") == 30);
  CHECK(metrics_difference(jobs.dir("sync"), jobs.dir("async")) == 0);
  for (const int64_t iteration : {1, 17, 29, 30}) {
    CHECK(difference(checkpoint_weights(jobs.dir("sync/checkpoints"), iteration),
                     checkpoint_weights(jobs.dir("async/checkpoints"), iteration)) == "");
  }
}

TEST_CASE("jobs: a rank that cannot write its share makes all ranks give the save up", "[full]") {
  if (!can_start()) return;
  const Jobs jobs(Settings{{"checkpoint.save_interval", "4"}});
  REQUIRE(jobs.job("run", kLayouts[1], " --set run.exit_interval=5").code == 75);
  for (const char* mode : {"false", "true"}) {
    // The second rank's files may have 8 KiB.
    const std::string rank =
        str_cat("sh -c '[ $OMPI_COMM_WORLD_RANK = 1 ] && trap \"\" XFSZ && ulimit -f 16; exec ",
                jobs.command("run", kLayouts[1].settings), " --set checkpoint.async_save=", mode, "'");
    const JobResult result = tiny::run_mpirun(2, rank);
    INFO(result.output);
    CHECK(result.code == 3);
    const std::string status = jobs.read("run/exit_status.json");
    INFO(status);
    CHECK(status.find("\"code\": 3") != std::string::npos);
    CHECK(status.find("rank ") == std::string::npos);  // all ranks know of it: nobody is to blame
    CHECK(result.count("the checkpoint of iteration 8 was not saved: cannot write ") == 1);
    CHECK(result.count("shard-00001-00000.safetensors: File too large") >= 1);
    CHECK(result.count("failed save 1 of 3") == 1);
    CHECK(result.count("the checkpoint of iteration 10 was not saved: cannot write ") >=
          1);  // the last one must not fail
    CHECK(jobs.has("run/checkpoints/iter_0000005/manifest.json"));
    CHECK_FALSE(jobs.has("run/checkpoints/iter_0000008"));
    CHECK_FALSE(jobs.has("run/checkpoints/iter_0000010"));
  }
  CHECK(jobs.job("run", kLayouts[1]).count("iteration 5, 40 samples consumed") == 1);
}

TEST_CASE("jobs: damage that one rank finds makes all ranks take the checkpoint before", "[full]") {
  if (!can_start()) return;
  const Jobs jobs(Settings{{"checkpoint.save_interval", "4"}});
  REQUIRE(jobs.job("run", kLayouts[1]).code == 0);
  const auto before = read_metrics(jobs.dir("run"));
  const std::string newest = "run/checkpoints/iter_0000010/shard-00001-00000.safetensors";
  std::string shard = jobs.read(newest);
  shard[shard.size() / 2] = static_cast<char>(shard[shard.size() / 2] ^ 8);  // where no sample looks
  std::ofstream(jobs.dir(newest), std::ios::binary) << shard;
  const JobResult resumed = jobs.job("run", kLayouts[1]);
  INFO(resumed.output);
  CHECK(resumed.code == 0);
  CHECK(resumed.count("checkpoint skipped: " + jobs.dir(newest) + ": bytes [") == 1);
  CHECK(resumed.count("iteration 8, 64 samples consumed") == 1);
  CHECK(read_metrics(jobs.dir("run")).at(10).lm_loss == before.at(10).lm_loss);
}

TEST_CASE("jobs: what ranks divide goes on as anything else", "[full]") {
  if (!can_start()) return;
  const Jobs jobs({});
  REQUIRE(jobs.alone("one").code == 0);
  const std::string overlaps = " --set parallel.overlap_grad_reduce=true --set parallel.overlap_param_gather=true";
  const std::string zero1 =
      " --set parallel.use_distributed_optimizer=true" + overlaps + " --set parallel.ddp_bucket_size=2000";
  const std::string zero3 = " --set parallel.data_parallel_sharding_strategy=optim_grads_params" + overlaps;
  const std::string hybrid = zero3 + " --set parallel.num_distributed_optimizer_instances=2";
  const Layout one = {"one", 1, ""};
  const Layout layouts[] = {{"zero1", 2, zero1.c_str()}, {"zero3", 4, zero3.c_str()}, {"hybrid", 4, hybrid.c_str()}};
  const Layout* const from[] = {&layouts[0], &layouts[1], &layouts[2], &one};
  const Layout* const to[] = {&layouts[1], &one, &layouts[0], &layouts[2]};
  for (size_t i = 0; i < std::size(from); ++i) {
    const std::string name = str_cat(from[i]->name, "-to-", to[i]->name);
    INFO(name);
    CHECK(jobs.job(name, *from[i], " --set run.exit_interval=5").code == 75);
    const JobResult resumed = jobs.job(name, *to[i]);
    INFO(resumed.output);
    CHECK(resumed.code == 0);
    CHECK(resumed.count("resumed from") == 1);
    CHECK(metrics_difference(jobs.dir(name), jobs.dir("one")) < 1e-10);
  }
  // On one mesh a run that was stopped gives the same bits as one that was not.
  REQUIRE(jobs.job("straight", layouts[0]).code == 0);
  CHECK(jobs.job("stopped", layouts[0], " --set run.exit_interval=5").code == 75);
  CHECK(jobs.job("stopped", layouts[0]).code == 0);
  CHECK(metrics_difference(jobs.dir("stopped"), jobs.dir("straight")) == 0);
}

TEST_CASE("jobs: a schedule of batch sizes on two ranks equals one rank, and goes on bit by bit around a change",
          "[full]") {
  if (!can_start()) return;
  const int64_t seq = load_settings(tiny({})).config.model.seq_length;
  const Jobs jobs({{"training.step_batch_size_schedule", str_cat("0:4 ", 12 * seq, ":8")}});
  const Layout one = {"one", 1, ""};
  for (const Layout* layout : {&one, &kLayouts[0]}) {
    const std::string name = layout->name;
    const JobResult straight = jobs.job(name, *layout);
    INFO(straight.output);
    REQUIRE(straight.code == 0);
    const auto lines = read_metrics(jobs.dir(name));
    CHECK(lines.at(3).consumed_samples == 12);
    CHECK(lines.at(4).consumed_samples == 20);
    CHECK(lines.at(10).consumed_samples == 12 + 7 * 8);
    CHECK(jobs.has(name + "/checkpoints/iter_0000003/manifest.json"));  // where the size changes
    for (const char* interval : {"2", "5"}) {                           // before and after
      const std::string stopped = str_cat(name, "-stopped-", interval);
      CHECK(jobs.job(stopped, *layout, str_cat(" --set run.exit_interval=", interval)).code == 75);
      CHECK(jobs.job(stopped, *layout).code == 0);
      CHECK(metrics_difference(jobs.dir(stopped), jobs.dir(name)) == 0);
      CHECK(difference(checkpoint_weights(jobs.dir(stopped + "/checkpoints")),
                       checkpoint_weights(jobs.dir(name + "/checkpoints"))) == "");
    }
  }
  CHECK(metrics_difference(jobs.dir("dp2"), jobs.dir("one")) < 1e-10);
}

TEST_CASE("jobs: a killed rank ends the job, and the same command goes on", "[full]") {
  if (!can_start()) return;
  const Jobs jobs({{"training.train_iters", "2000000"},
                   {"checkpoint.save_interval", "50"},
                   {"checkpoint.most_recent_k", "2"},
                   {"training.eval_interval", "1000000"}});
  // The second rank is killed once there is a checkpoint.
  const std::string killed =
      str_cat("(for i in $(seq 300); do [ -e ", jobs.dir("run/checkpoints/latest"), " ] && break; sleep 0.1; done; ",
              "kill -KILL $(cat ", jobs.dir("second.pid"), ")) & ");
  const std::string rank = str_cat("sh -c '[ $OMPI_COMM_WORLD_RANK = 1 ] && echo $$ > ", jobs.dir("second.pid"),
                                   "; exec ", jobs.command("run", ""), "'");
  const JobResult result = tiny::run_shell(
      killed +
      "timeout 60 mpirun --allow-run-as-root --oversubscribe --bind-to none --mca mpi_yield_when_idle 1 -n 2 " + rank);
  INFO(result.output);
  CHECK(result.code != 0);
  CHECK(result.code != 124);  // it ended by itself
  CHECK(result.seconds < 50);
  const JobResult resumed = jobs.job("run", kLayouts[0], " --set run.exit_interval=50");
  INFO(resumed.output);
  CHECK(resumed.code == 75);
  CHECK(resumed.count("resumed from") == 1);
}

TEST_CASE("jobs: a signal to one rank stops all of them at the same iteration", "[full]") {
  if (!can_start()) return;
  const Jobs jobs({{"training.train_iters", "2000000"},
                   {"checkpoint.save_interval", "1000000"},
                   {"training.eval_interval", "1000000"}});
  const std::string signal =
      str_cat("(for i in $(seq 300); do [ -s ", jobs.dir("run/metrics.jsonl"),
              " ] && break; sleep 0.1; done; sleep 0.3; ", "kill -USR1 $(cat ", jobs.dir("second.pid"), ")) & ");
  const std::string rank = str_cat("sh -c '[ $OMPI_COMM_WORLD_RANK = 1 ] && echo $$ > ", jobs.dir("second.pid"),
                                   "; exec ", jobs.command("run", ""), "'");
  const JobResult result = tiny::run_shell(
      signal +
      "timeout 60 mpirun --allow-run-as-root --oversubscribe --bind-to none --mca mpi_yield_when_idle 1 -n 2 " + rank);
  INFO(result.output);
  CHECK(result.code == 75);
  const std::string first = jobs.read("run/exit_status.json"),
                    second = jobs.read("run/logs/exit_status-rank-0001.json");
  CHECK(first.find("SIGUSR1") != std::string::npos);
  const auto iteration = [](const std::string& text) {
    const size_t at = text.find("\"iteration\"");
    return text.substr(at, text.find('\n', at) - at);
  };
  CHECK(iteration(first) == iteration(second));
}

TEST_CASE("jobs: ranks that were started differently are refused with the difference", "[full]") {
  if (!can_start()) return;
  const Jobs jobs({});
  const JobResult result =
      tiny::run_shell(str_cat("timeout 60 mpirun --allow-run-as-root --oversubscribe --bind-to none -n 1 ",
                              jobs.command("run", ""), " : -n 1 ", jobs.command("run", " --set optimizer.lr=0.5")));
  INFO(result.output);
  CHECK(result.code == 2);
  CHECK(result.count("rank 1") > 0);
  CHECK(result.count("configuration") > 0);
  CHECK_FALSE(jobs.has("run/metrics.jsonl"));
}

TEST_CASE("jobs: a rank that fails tells the others, and each leaves its exit status", "[full]") {
  if (!can_start()) return;
  const Jobs jobs({});
  std::filesystem::create_directories(jobs.dir("run/logs/rank-0001.log"));  // where its log should be
  const JobResult result = jobs.job("run", kLayouts[0]);
  INFO(result.output);
  CHECK(result.code != 0);
  CHECK(result.seconds < 30);
  const std::string status = jobs.read("run/exit_status.json");
  CHECK(status.find("\"code\": 4") != std::string::npos);
  CHECK(status.find("rank 1 (") != std::string::npos);
  CHECK(status.find("rank-0001.log") != std::string::npos);
}

TEST_CASE("jobs: bench step measures the whole job, with and without communication", "[full]") {
  if (!can_start()) return;
  const std::string command =
      str_cat(MEGATRON_BINARY, " bench step --json --steps 4 --warmup 1 --config ", MEGATRON_SOURCE_DIR,
              "/configs/simple.yaml --set parallel.tensor_model_parallel_size=2 --set parallel.sequence_parallel=true");
  for (const bool communication : {true, false}) {
    const JobResult result = tiny::run_mpirun(4, command + (communication ? "" : " --no-comm"));
    INFO(result.output);
    REQUIRE(result.code == 0);
    const nlohmann::json report = nlohmann::json::parse(result.output);  // one object, from one rank
    CHECK(report["communication"] == communication);
    CHECK(report["ranks"] == 4);
    CHECK(report["mesh"] == nlohmann::json({{"tp", 2}, {"dp", 2}}));
    CHECK(report["by_rank"].size() == 4);
    CHECK(report["skipped_steps"] == 0);
    double slowest = 0;
    for (const nlohmann::json& rank : report["by_rank"]) {
      slowest = std::max(slowest, rank["step_seconds"].get<double>());
    }
    CHECK(report["step_seconds"] == slowest);
    CHECK(std::abs(report["tokens_per_second"].get<double>() * slowest / (16 * 32) - 1) < 1e-9);
  }
}

TEST_CASE("jobs: configs/simple.yaml under mpirun", "[full]") {
  if (!can_start()) return;
  const Scratch scratch;
  const std::string command =
      str_cat(MEGATRON_BINARY, " pretrain --config ", MEGATRON_SOURCE_DIR, "/configs/simple.yaml --set run.dir=");
  REQUIRE(tiny::run_shell(command + scratch.path("one")).code == 0);
  for (const Layout& layout : {kLayouts[0], kLayouts[2]}) {
    INFO(layout.name);
    const JobResult result = tiny::run_mpirun(layout.ranks, command + scratch.path(layout.name) + layout.settings);
    INFO(result.output);
    CHECK(result.code == 0);
    CHECK(metrics_difference(scratch.path(layout.name), scratch.path("one")) < 1e-5);  // fp32
    CHECK(read_metrics(scratch.path(layout.name)).at(50).lm_loss < 2);
  }
}

}  // namespace megatron::test
