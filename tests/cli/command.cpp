#include "tests/cli/command.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/catch.h"

namespace megatron::testing {
namespace {

std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE(file.good());
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

/// In the child: only calls that are safe between fork and exec.
void become(const std::vector<char*>& words, const char* folder, const char* out, const char* err) {
  const int to_out = ::open(out, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  const int to_err = ::open(err, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  const int from = ::open("/dev/null", O_RDONLY);
  ::dup2(from, 0);
  ::dup2(to_out, 1);
  ::dup2(to_err, 2);
  ::alarm(120);
  if (::chdir(folder) == 0) ::execv(words[0], words.data());
  ::_exit(127);
}

}  // namespace

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

Process::Process(Process&& other) noexcept
    : pid_(other.pid_), out_(std::move(other.out_)), err_(std::move(other.err_)) {
  other.pid_ = -1;
}

Process::~Process() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

void Process::signal(int number) const {
  REQUIRE(::kill(pid_, number) == 0);
}

Outcome Process::wait() {
  int status = 0;
  REQUIRE(::waitpid(pid_, &status, 0) == pid_);
  pid_ = -1;
  Outcome outcome;
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  outcome.out = read_text(out_);
  outcome.err = read_text(err_);
  return outcome;
}

Workspace::Workspace() {
  std::string name = (std::filesystem::temp_directory_path() / "megatron_cli_XXXXXX").string();
  REQUIRE(::mkdtemp(name.data()) != nullptr);
  root_ = name;
}

Workspace::~Workspace() {
  std::filesystem::remove_all(root_);
}

void Workspace::write(const std::string& name, const std::string& text) const {
  std::filesystem::create_directories(std::filesystem::path(path(name)).parent_path());
  std::ofstream file(path(name), std::ios::binary);
  file << text;
  REQUIRE(file.good());
}

std::string Workspace::read(const std::string& name) const {
  INFO(name);
  return read_text(path(name));
}

bool Workspace::exists(const std::string& name) const {
  return std::filesystem::exists(path(name));
}

void Workspace::damage(const std::string& name, int64_t offset) const {
  std::string text = read(name);
  REQUIRE(offset < static_cast<int64_t>(text.size()));
  text[static_cast<size_t>(offset)] = static_cast<char>(text[static_cast<size_t>(offset)] ^ 0x21);
  write(name, text);
}

Process Workspace::start(const std::vector<std::string>& words) const {
  static int count = 0;
  ++count;
  const std::string out = path(".out" + std::to_string(count)), err = path(".err" + std::to_string(count));
  std::vector<std::string> all = {MEGATRON_BINARY};
  all.insert(all.end(), words.begin(), words.end());
  std::vector<char*> pointers;
  for (std::string& word : all) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  const pid_t pid = ::fork();
  REQUIRE(pid >= 0);
  if (pid == 0) become(pointers, root_.c_str(), out.c_str(), err.c_str());
  return {pid, out, err};
}

Outcome Workspace::run(const std::vector<std::string>& words) const {
  return start(words).wait();
}

std::string Workspace::succeed(const std::vector<std::string>& words) const {
  const Outcome outcome = run(words);
  INFO(words[0] << ": " << outcome.err);
  REQUIRE(outcome.code == 0);
  return outcome.out;
}

void Workspace::prepare() const {
  write("corpus.txt", real_text());
  succeed({"tokenizer", "train", "--input", "corpus.txt", "--vocab-size", "400", "--output", "data/tokenizer.json"});
  succeed({"preprocess", "--input", "corpus.txt", "--output-prefix", "data/text", "--tokenizer-type",
           "HuggingFaceTokenizer", "--tokenizer-model", "data/tokenizer.json", "--append-eod"});
  write("tiny.yaml", tiny_yaml("out/tiny"));
}

std::string real_text() {
  const std::string root = MEGATRON_SOURCE_DIR;
  std::string text = read_text(root + "/LICENSE") + read_text(root + "/CONTRIBUTING.md");
  for (const char* room : {"base", "config", "data", "program", "checkpoint", "train", "tokenizer"}) {
    text += read_text(root + "/src/" + room + "/README.md");
  }
  return text;
}

std::string tiny_yaml(const std::string& run_dir) {
  return "run: {dir: " + run_dir + ", device: cpu, seed: 1234}\n" +
         R"(model: {family: gpt, num_layers: 2, hidden_size: 32, ffn_hidden_size: 64, num_attention_heads: 4, num_query_groups: 2,
        seq_length: 32, max_position_embeddings: 32, position_embedding_type: rope, normalization: RMSNorm,
        swiglu: true, add_bias_linear: false, untie_embeddings_and_output_weights: true, hidden_dropout: 0.0, attention_dropout: 0.0}
parallel: {tensor_model_parallel_size: 1, pipeline_model_parallel_size: 1, context_parallel_size: 1}
data: {data_path: [data/text_document], split: "90,8,2", tokenizer_type: HuggingFaceTokenizer, tokenizer_model: data/tokenizer.json}
training: {micro_batch_size: 4, global_batch_size: 8, train_iters: 30, eval_interval: 10, eval_iters: 2}
optimizer: {optimizer: adam, lr: 1.0e-2, min_lr: 1.0e-3, lr_decay_style: cosine, lr_warmup_iters: 3, weight_decay: 0.1, clip_grad: 1.0, adam_beta1: 0.9, adam_beta2: 0.95}
precision: {params_dtype: fp32}
)" +
         "checkpoint: {save: " + run_dir + "/checkpoints, save_interval: 10}\n";
}

std::map<int64_t, std::string> comparable_metrics(const std::string& jsonl) {
  std::map<int64_t, std::string> lines;
  std::istringstream stream(jsonl);
  for (std::string line; std::getline(stream, line);) {
    const nlohmann::json full = nlohmann::json::parse(line);
    nlohmann::json kept;
    for (const char* key : {"lm_loss", "grad_norm", "learning_rate", "loss_scale", "consumed_samples",
                            "consumed_tokens", "skipped", "valid_lm_loss", "test_lm_loss"}) {
      if (full.contains(key)) kept[key] = full[key];
    }
    lines[full["iteration"].get<int64_t>()] = kept.dump();
  }
  return lines;
}

}  // namespace megatron::testing
