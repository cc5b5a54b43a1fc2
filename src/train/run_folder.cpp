#include "train/run_folder.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdio>
#include <ctime>
#include <string_view>
#include <thread>

#include "base/error.h"
#include "base/host.h"
#include "base/log.h"
#include "base/strings.h"
#include "train/exit_status.h"

extern char** environ;

namespace megatron {
namespace {

constexpr std::array<std::string_view, 24> kPrefixes = {
    "MEGATRON_", "OMP_",   "OPENBLAS_",     "MKL_",    "BLIS_", "GOTO_",  "KMP_", "CUDA_",
    "CUBLAS",    "CUDNN_", "NVIDIA_",       "NCCL_",   "OMPI_", "PMIX_",  "PMI_", "UCX_",
    "FI_",       "SLURM_", "TORCHELASTIC_", "MALLOC_", "ASAN_", "UBSAN_", "LC_",  "GLIBC_"};
constexpr std::array<std::string_view, 14> kNames = {
    "RANK", "WORLD_SIZE", "LOCAL_RANK",      "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LANG",
    "TZ",   "TERM",       "LD_LIBRARY_PATH", "LD_PRELOAD",       "TMPDIR",      "HOSTNAME",    "NO_COLOR"};
constexpr std::array<std::string_view, 8> kSecrets = {"TOKEN", "KEY",  "SECRET", "PASS",
                                                      "JWT",   "CRED", "AUTH",   "COOKIE"};

std::string local_time() {
  const std::time_t now = std::time(nullptr);
  std::tm parts = {};
  ::localtime_r(&now, &parts);
  char text[48];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S%z", &parts);
  return text;
}

std::string build_description() {
  std::string text = str_cat("g++ ", __VERSION__, ", C++ ", __cplusplus);
#ifdef __clang__
  text = str_cat("clang ", __VERSION__, ", C++ ", __cplusplus);
#endif
#ifdef __OPTIMIZE__
  text += ", optimised";
#else
  text += ", not optimised";
#endif
#ifdef __SANITIZE_ADDRESS__
  text += ", address sanitizer";
#endif
#ifdef __AVX512F__
  text += ", avx512";
#elif defined(__AVX2__)
  text += ", avx2";
#endif
  return text;
}

std::string limit_text(int64_t limit) {
  return limit == kUnlimited ? "unlimited" : std::to_string(limit);
}

}  // namespace

RunFolder::RunFolder(std::string dir, int64_t rank) : dir_(std::move(dir)), rank_(rank) {
  create_directories(path("logs"));
  if (rank_ == 0) {
    std::string owner;
    lock_ = FileLock::try_lock(path(".lock"), str_cat("process ", ::getpid(), " on ", host_name(), "\n"), &owner);
    if (!lock_) {
      throw UsageError(str_cat("run.dir ", dir_, " is in use by ", trim(owner),
                               "; wait for that run to end, or give this one another run.dir"));
    }
  }
  remove_tree(exit_status_path());
  set_log_file(log_path());
}

std::string RunFolder::log_path() const {
  char name[40];
  std::snprintf(name, sizeof name, "logs/rank-%04lld.log", static_cast<long long>(rank_));
  return path(name);
}

std::string RunFolder::exit_status_path() const {
  return megatron::exit_status_path(dir_, rank_);
}

void RunFolder::describe(const std::string& resolved_yaml, const std::string& plan, const std::string& environment,
                         const std::vector<std::string>& arguments) const {
  atomic_write_file(path("resolved.yaml"), resolved_yaml);
  atomic_write_file(path("plan.txt"), plan);
  atomic_write_file(path("env.txt"), environment);
  std::array<char, 4096> folder{};
  const char* working = ::getcwd(folder.data(), folder.size());
  FileWriter commands(path("command.txt"), FileOps::Create::kAppend);
  commands.append(str_cat("# ", local_time(), " on ", host_name(), "\ncd ", shell_quoted({working ? working : "."}),
                          "\n", shell_quoted(arguments), "\n"));
  commands.finish();
}

std::string shell_quoted(const std::vector<std::string>& arguments) {
  std::vector<std::string> words;
  for (const std::string& argument : arguments) {
    const bool plain = !argument.empty() && std::all_of(argument.begin(), argument.end(), [](unsigned char c) {
      return std::isalnum(c) || std::string_view("_-./=:,+@%").find(static_cast<char>(c)) != std::string_view::npos;
    });
    std::string word = argument;
    if (!plain) {
      word = "'";
      for (char c : argument) word += c == '\'' ? std::string("'\\''") : std::string(1, c);
      word += "'";
    }
    words.push_back(word);
  }
  return join(words, " ");
}

bool is_reported_variable(const std::string& name) {
  for (std::string_view secret : kSecrets) {
    if (name.find(secret) != std::string::npos) return false;
  }
  return std::find(kNames.begin(), kNames.end(), name) != kNames.end() ||
         std::any_of(kPrefixes.begin(), kPrefixes.end(), [&](std::string_view p) { return starts_with(name, p); });
}

std::string environment_report(const std::vector<std::pair<std::string, std::string>>& extra) {
  std::string text;
  const auto line = [&](std::string_view key, const std::string& value) { text += str_cat(key, ": ", value, "\n"); };
  for (const auto& [key, value] : extra) line(key, value);
  line("build", build_description());
  line("time", local_time());
  line("host", host_name());
  const HostFacts machine = host_facts();
  const HostLimits limits = host_limits();
  line("system", machine.system);
  line("processor", machine.processor);
  line("hardware threads", std::to_string(std::thread::hardware_concurrency()));
  line("memory", format_bytes(static_cast<double>(machine.memory_total)));
  line("open files limit", limit_text(limits.open_files));
  line("locked memory limit", limit_text(limits.locked_bytes));
  std::vector<std::string> variables;
  for (char** variable = environ; variable != nullptr && *variable != nullptr; ++variable) {
    const std::string_view entry = *variable;
    if (is_reported_variable(std::string(entry.substr(0, entry.find('='))))) variables.emplace_back(entry);
  }
  std::sort(variables.begin(), variables.end());
  text += "\nenvironment variables\n";
  for (const std::string& variable : variables) text += str_cat("  ", variable, "\n");
  return text;
}

}  // namespace megatron
