// Starts jobs of several processes and collects what they say.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/strings.h"

namespace megatron::tiny {

struct JobResult {
  int code = -1;       ///< exit code of the shell's command
  std::string output;  ///< standard output and error
  double seconds = 0;

  int count(const std::string& text) const {
    int found = 0;
    for (size_t at = output.find(text); at != std::string::npos; at = output.find(text, at + 1)) ++found;
    return found;
  }
};

inline JobResult run_shell(const std::string& command) {
  const auto start = std::chrono::steady_clock::now();
  JobResult result;
  FILE* pipe = popen(("exec 2>&1; " + command).c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error("popen failed");
  std::array<char, 4096> buffer{};
  for (size_t n; (n = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) result.output.append(buffer.data(), n);
  const int status = pclose(pipe);
  result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

inline bool have_mpirun() {
  return run_shell("command -v mpirun").code == 0;
}

/// `command` on `ranks` ranks of this host, however few cores it has; ended after `limit` seconds (code 124).
inline JobResult run_mpirun(int ranks, const std::string& command, int limit = 60) {
  const std::string root = geteuid() == 0 ? " --allow-run-as-root" : "";
  return run_shell(str_cat("export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1; timeout ", limit, " mpirun", root,
                           " --oversubscribe --bind-to none --mca mpi_yield_when_idle 1 -n ", ranks, " ", command));
}

/// `command` once for every environment, at the same time; code is the largest of theirs.
inline JobResult run_together(const std::vector<std::string>& environments, const std::string& command) {
  std::string script = "jobs=''; code=0; ";
  for (const std::string& environment : environments) {
    script += str_cat("env ", environment, " timeout 60 ", command, " & jobs=\"$jobs $!\"; ");
  }
  return run_shell(script + "for j in $jobs; do wait $j; c=$?; [ $c -gt $code ] && code=$c; done; exit $code");
}

}  // namespace megatron::tiny
