#include "comm/launch.h"

#include <unistd.h>

#include <charconv>
#include <optional>

#include "base/error.h"
#include "base/strings.h"
#include "comm/tcp_world.h"
#ifdef MEGATRON_HAVE_MPI
#include "comm/mpi/mpi_world.h"
#endif

namespace megatron {
namespace {

std::optional<std::string> find(const Environment& environment, const std::string& name) {
  const auto found = environment.find(name);
  if (found == environment.end() || found->second.empty()) return std::nullopt;
  return found->second;
}

/// A whole number in [low, high] from a variable that must be there.
int number(const Environment& environment, const std::string& name, int low, int high) {
  const auto text = find(environment, name);
  if (!text) throw UsageError(str_cat("environment variable ", name, " is not set, but others of its family are"));
  int value = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  if (error != std::errc() || end != text->data() + text->size() || value < low || value > high) {
    throw UsageError(str_cat("environment variable ", name, " is '", *text, "', which is not a whole number from ", low,
                             " to ", high));
  }
  return value;
}

constexpr int kMaxRanks = 1 << 20;

Launch from_mpi(const Environment& e, const std::string& rank, const std::string& size) {
  Launch launch;
  launch.kind = Launch::Kind::kMpi;
  launch.how = "mpirun";
  launch.size = find(e, size) ? number(e, size, 1, kMaxRanks) : -1;
  launch.rank = find(e, rank) && launch.size > 0 ? number(e, rank, 0, launch.size - 1) : -1;
  return launch;
}

Launch from_variables(const Environment& e) {
  Launch launch;
  launch.kind = Launch::Kind::kTcp;
  launch.how = "RANK and WORLD_SIZE";
  launch.size = number(e, "WORLD_SIZE", 1, kMaxRanks);
  launch.rank = number(e, "RANK", 0, launch.size - 1);
  if (find(e, "LOCAL_RANK")) launch.local_rank = number(e, "LOCAL_RANK", 0, kMaxRanks);
  if (launch.size == 1) return launch;
  const auto master = find(e, "MASTER_ADDR");
  if (!master) throw UsageError("RANK and WORLD_SIZE are set, but MASTER_ADDR, the host of rank 0, is not");
  launch.master = *master;
  launch.port = number(e, "MASTER_PORT", 1, 65535);
  return launch;
}

Launch from_slurm(const Environment& e) {
  Launch launch;
  launch.kind = Launch::Kind::kTcp;
  launch.how = "slurm";
  launch.size = number(e, find(e, "SLURM_STEP_NUM_TASKS") ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS", 1, kMaxRanks);
  launch.rank = number(e, "SLURM_PROCID", 0, launch.size - 1);
  launch.local_rank = number(e, "SLURM_LOCALID", 0, kMaxRanks);
  if (launch.size == 1) return launch;
  if (const auto master = find(e, "MASTER_ADDR")) {
    launch.master = *master;
  } else {
    const char* const names[] = {"SLURM_STEP_NODELIST", "SLURM_NODELIST", "SLURM_JOB_NODELIST"};
    for (const char* name : names) {
      if (launch.master.empty() && find(e, name)) launch.master = expand_node_list(*find(e, name)).front();
    }
    if (launch.master.empty())
      throw UsageError("a Slurm step without SLURM_NODELIST; set MASTER_ADDR to rank 0's host");
  }
  if (find(e, "MASTER_PORT")) {
    launch.port = number(e, "MASTER_PORT", 1, 65535);
  } else {  // jobs of one node must not meet; below the range from which systems give out ports
    launch.port = 15000 + number(e, "SLURM_JOB_ID", 0, 2147483647) % 15000;
  }
  return launch;
}

/// One element of a node list, "gpu[01-03,7]-[a]"; appends what it stands for.
void expand_name(const std::string& name, const std::string& whole, std::vector<std::string>& out) {
  const auto bad = [&](const std::string& why) {
    return UsageError(str_cat("node list '", whole, "' cannot be read: ", why));
  };
  const size_t open = name.find('['), close = name.find(']');
  if (open == std::string::npos && close == std::string::npos) {
    if (name.empty()) throw bad("a name is empty");
    out.push_back(name);
    return;
  }
  if (open == std::string::npos || close == std::string::npos || close < open) throw bad("a bracket has no partner");
  std::vector<std::string> tails;
  const std::string rest = name.substr(close + 1);
  if (rest.empty()) {
    tails.emplace_back();
  } else {
    expand_name(rest, whole, tails);
  }
  for (const std::string& range : split(name.substr(open + 1, close - open - 1), ',')) {
    const size_t dash = range.find('-');
    const std::string first = range.substr(0, dash), last = dash == std::string::npos ? first : range.substr(dash + 1);
    const auto digits = [](const std::string& s) {
      return !s.empty() && s.size() <= 9 && s.find_first_not_of("0123456789") == std::string::npos;
    };
    if (!digits(first) || !digits(last)) throw bad("'" + range + "' is not a range of numbers");
    const int begin = std::stoi(first), end = std::stoi(last);
    if (end < begin || end - begin > kMaxRanks) throw bad("'" + range + "' runs backwards or is too long");
    for (int i = begin; i <= end; ++i) {
      std::string digits_of_i = std::to_string(i);
      if (digits_of_i.size() < first.size()) digits_of_i.insert(0, first.size() - digits_of_i.size(), '0');
      for (const std::string& tail : tails) out.push_back(name.substr(0, open) + digits_of_i + tail);
    }
  }
}

}  // namespace

Environment process_environment() {
  Environment environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const size_t equal = text.find('=');
    if (equal != std::string::npos) environment[text.substr(0, equal)] = text.substr(equal + 1);
  }
  return environment;
}

Launch detect_launch(const Environment& e) {
  Launch launch;
  launch.how = "one rank";
  if (find(e, "OMPI_COMM_WORLD_SIZE")) return from_mpi(e, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE");
  if (find(e, "PMIX_RANK")) return from_mpi(e, "PMIX_RANK", "SLURM_STEP_NUM_TASKS");
  if (find(e, "RANK") && find(e, "WORLD_SIZE")) {
    launch = from_variables(e);
  } else if (find(e, "SLURM_PROCID") && find(e, "SLURM_STEP_ID")) {
    launch = from_slurm(e);
  } else if (find(e, "PMI_RANK") && find(e, "PMI_SIZE")) {
    return from_mpi(e, "PMI_RANK", "PMI_SIZE");
  }
  if (launch.size == 1) launch.kind = Launch::Kind::kSingle;
  return launch;
}

std::vector<std::string> expand_node_list(const std::string& list) {
  std::vector<std::string> hosts;
  std::string name;
  int depth = 0;
  for (const char c : list) {
    depth += c == '[' ? 1 : c == ']' ? -1 : 0;
    if (c == ',' && depth == 0) {
      expand_name(name, list, hosts);
      name.clear();
    } else {
      name += c;
    }
  }
  expand_name(name, list, hosts);
  return hosts;
}

bool has_mpi() {
#ifdef MEGATRON_HAVE_MPI
  return true;
#else
  return false;
#endif
}

std::unique_ptr<World> join_world(const Launch& launch, const WorldOptions& options) {
  switch (launch.kind) {
    case Launch::Kind::kSingle:
      return make_single_world();
    case Launch::Kind::kTcp:
      return make_tcp_world(launch, options);
    case Launch::Kind::kMpi:
      break;
  }
#ifdef MEGATRON_HAVE_MPI
  return make_mpi_world(launch, options);
#else
  throw UsageError(
      "started by mpirun, but this program was built without MPI; build it with -DMEGATRON_MPI=ON, or set RANK, "
      "WORLD_SIZE, MASTER_ADDR and MASTER_PORT yourself");
#endif
}

}  // namespace megatron
