// What `megatron doctor` says of machines with and without this and that.
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/catch.h"
#include "tests/cli/command.h"

namespace megatron::testing {
namespace {

/// A variable of the environment, for the time of a test.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) {
    const char* before = std::getenv(name);
    had_ = before != nullptr;
    if (had_) before_ = before;
    ::setenv(name, value, 1);
  }
  ~Variable() {
    if (had_) {
      ::setenv(name_, before_.c_str(), 1);
    } else {
      ::unsetenv(name_);
    }
  }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
  bool had_ = false;
  std::string before_;
};

nlohmann::json report(const Workspace& work, const std::vector<std::string>& more = {}) {
  std::vector<std::string> words = {"doctor", "--json"};
  words.insert(words.end(), more.begin(), more.end());
  return nlohmann::json::parse(work.succeed(words));
}

/// The finding of that name; null when there is none.
nlohmann::json find(const nlohmann::json& all, const std::string& section, const std::string& name) {
  for (const nlohmann::json& finding : all["findings"]) {
    if (finding["section"] == section && finding["name"] == name) return finding;
  }
  return nullptr;
}

bool has_gpu(const nlohmann::json& all) {
  return all["devices"][0] == "cuda";
}

}  // namespace

TEST_CASE("doctor: every line has a verdict, and a remedy unless it is ok") {
  const Workspace work;
  const nlohmann::json all = report(work);
  CHECK(all["devices"].back() == "cpu");
  for (const nlohmann::json& finding : all["findings"]) {
    INFO(finding.dump());
    const std::string status = finding["status"];
    CHECK((status == "ok" || status == "warn" || status == "missing"));
    CHECK(finding["remedy"].get<std::string>().empty() == (status == "ok"));
    CHECK_FALSE(finding["value"].get<std::string>().empty());
  }
  for (const auto& [section, name] : std::vector<std::pair<std::string, std::string>>{{"host", "processor"},
                                                                                      {"host", "memory"},
                                                                                      {"host", "BLAS"},
                                                                                      {"gpu", "driver"},
                                                                                      {"launch", "mpirun"},
                                                                                      {"disk", "space"},
                                                                                      {"limits", "locked memory"},
                                                                                      {"limits", "open files"},
                                                                                      {"limits", "/dev/shm"},
                                                                                      {"tools", "wandb"}}) {
    INFO(section << "/" << name);
    CHECK_FALSE(find(all, section, name).is_null());
  }

  const std::string text = work.succeed({"doctor"});
  INFO(text);
  for (const char* section : {"host\n", "gpu\n", "launch\n", "disk\n", "limits\n", "environment\n", "tools\n"}) {
    CHECK(has(text, section));
  }
  CHECK(has(text, "this machine can run on: "));
  std::istringstream stream(text);
  std::string line, before;
  while (std::getline(stream, line)) {
    if (before.starts_with("  warn") || before.starts_with("  missing")) CHECK(has(line, " -> "));
    before = line;
  }
}

TEST_CASE("doctor: --device cuda without a usable GPU is exit code 4, after the report") {
  const Workspace work;
  if (has_gpu(report(work))) return;
  const Outcome outcome = work.run({"doctor", "--device", "cuda"});
  CHECK(outcome.code == 4);
  CHECK(has(outcome.out, "this machine can run on: cpu"));
  CHECK(has(outcome.err, "--device cuda: "));
  CHECK(work.run({"doctor", "--device", "cpu"}).code == 0);
  const Outcome wrong = work.run({"doctor", "--device", "gpu"});
  CHECK(wrong.code == 2);
}

TEST_CASE("doctor: a training run with device cuda but no GPU ends with code 4 and says why") {
  const Workspace work;
  if (has_gpu(report(work))) return;
  work.write("tiny.yaml", R"(run: {device: cuda}
model: {num_layers: 1, hidden_size: 16, num_attention_heads: 2, seq_length: 8, vocab_size: 32,
        position_embedding_type: rope}
data: {mock_data: true, tokenizer_type: NullTokenizer}
training: {micro_batch_size: 1, global_batch_size: 1, train_iters: 1, eval_iters: 0}
optimizer: {lr: 1.0e-3}
)");
  const Outcome outcome = work.run({"pretrain", "--config", "tiny.yaml"});
  INFO(outcome.err);
  CHECK(outcome.code == 4);
  CHECK(has(outcome.err, "run.device: cuda: "));
  CHECK(has(outcome.err, "run.device: cpu"));
}

TEST_CASE("doctor: storage is measured only when a folder is named, and left clean") {
  const Workspace work;
  CHECK(find(report(work), "disk", "writing").is_null());
  std::filesystem::create_directories(work.path("there"));
  const nlohmann::json all = report(work, {"--dir", "there"});
  for (const char* name : {"writing", "fsync", "reading"}) CHECK_FALSE(find(all, "disk", name).is_null());
  CHECK(std::filesystem::is_empty(work.path("there")));
  const Outcome outcome = work.run({"doctor", "--dir", "not/there"});
  CHECK(outcome.code == 2);
  CHECK(has(outcome.err, "--dir not/there: there is no such folder"));
}

TEST_CASE("doctor: variables that slow runs down are warnings") {
  const Workspace work;
  const Variable blocking("CUDA_LAUNCH_BLOCKING", "1"), threads("OMP_NUM_THREADS", "100000"),
      debug("NCCL_DEBUG", "WARN"), foreign("NCCL_SOCKET_IFNAME", "eth\xff");
  const nlohmann::json all = report(work);
  CHECK(find(all, "environment", "CUDA_LAUNCH_BLOCKING")["status"] == "warn");
  CHECK(find(all, "environment", "OMP_NUM_THREADS")["status"] == "warn");
  CHECK(find(all, "environment", "NCCL_DEBUG")["status"] == "ok");
  CHECK(find(all, "environment", "NCCL_SOCKET_IFNAME")["value"] == "eth\xEF\xBF\xBD");
}

TEST_CASE("doctor: mpirun, launchers and tools as they are found") {
  const Workspace work;
  std::filesystem::create_directories(work.path("bin"));
  {
    const Variable path("PATH", work.path("bin").c_str());
    const nlohmann::json all = report(work);
    const nlohmann::json mpirun = find(all, "launch", "mpirun");
    CHECK(mpirun["status"] == "missing");
    CHECK(has(mpirun["remedy"], "apt-get install openmpi-bin"));
    CHECK(find(all, "tools", "wandb")["remedy"] == "pip install wandb");
    CHECK(has(find(all, "launch", "started by")["value"], "hand"));
  }
  work.write("bin/mpirun", "#!/bin/sh\necho 'mpirun (Some MPI) 7.8'\n");
  ::chmod(work.path("bin/mpirun").c_str(), 0755);
  const Variable path("PATH", (work.path("bin") + ":/usr/bin:/bin").c_str()), rank("OMPI_COMM_WORLD_RANK", "3"),
      size("OMPI_COMM_WORLD_SIZE", "8"), job("SLURM_JOB_ID", "42");
  const nlohmann::json all = report(work);
  CHECK(find(all, "launch", "mpirun")["status"] == "ok");
  CHECK(has(find(all, "launch", "mpirun")["value"], "mpirun (Some MPI) 7.8"));
  const std::string by = find(all, "launch", "started by")["value"];
  CHECK(has(by, "mpirun, rank 3 of 8"));
  CHECK(has(by, "Slurm, job 42"));
}

}  // namespace megatron::testing
