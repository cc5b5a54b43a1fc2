#include "base/host.h"

#include <dlfcn.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <thread>

#include "base/strings.h"

namespace megatron {
namespace {

/// Bytes of a line such as "MemTotal: 4040 kB" of /proc/meminfo.
int64_t memory_value(const std::string& key) {
  const std::string text = proc_value("/proc/meminfo", key);
  return text.empty() ? 0 : std::strtoll(text.c_str(), nullptr, 10) * 1024;
}

int count_numa_nodes() {
  std::error_code error;
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/devices/system/node", error)) {
    const std::string name = entry.path().filename().string();
    if (starts_with(name, "node") && name.find_first_not_of("0123456789", 4) == std::string::npos) ++count;
  }
  return count;
}

int64_t soft_limit(int resource) {
  struct rlimit limit = {};
  if (::getrlimit(static_cast<__rlimit_resource_t>(resource), &limit) != 0) return 0;
  return limit.rlim_cur == RLIM_INFINITY ? kUnlimited : static_cast<int64_t>(limit.rlim_cur);
}

}  // namespace

int usable_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  return static_cast<int>(std::thread::hardware_concurrency());
}

int online_processors() {
  return std::max(1, static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN)));
}

std::string proc_value(const char* path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(':');
    if (colon != std::string::npos && trim(std::string_view(line).substr(0, colon)) == key) {
      return std::string(trim(std::string_view(line).substr(colon + 1)));
    }
  }
  return {};
}

int64_t available_host_memory() {
  return memory_value("MemAvailable");
}

HostFacts host_facts() {
  HostFacts facts;
  struct utsname system = {};
  if (::uname(&system) == 0) facts.system = str_cat(system.sysname, " ", system.release, " ", system.machine);
  facts.processor = proc_value("/proc/cpuinfo", "model name");
  facts.processors = usable_processors();
  facts.numa_nodes = count_numa_nodes();
  facts.memory_total = memory_value("MemTotal");
  facts.memory_available = available_host_memory();
  return facts;
}

HostLimits host_limits() {
  return {soft_limit(RLIMIT_MEMLOCK), soft_limit(RLIMIT_NOFILE)};
}

FileSystemFacts file_system_facts(const std::string& path) {
  struct statvfs facts = {};
  if (::statvfs(path.c_str(), &facts) != 0) return {};
  const auto block = static_cast<int64_t>(facts.f_frsize);
  return {static_cast<int64_t>(facts.f_blocks) * block, static_cast<int64_t>(facts.f_bavail) * block, true};
}

std::string find_program(const std::string& name) {
  const char* path = std::getenv("PATH");
  for (const std::string& folder : split(path != nullptr ? path : "", ':')) {
    const std::string file = (folder.empty() ? "." : folder) + "/" + name;
    std::error_code error;
    if (std::filesystem::is_regular_file(file, error) && ::access(file.c_str(), X_OK) == 0) return file;
  }
  return {};
}

std::string program_version(const std::string& program) {
  std::string quoted = "'";
  for (const char c : program) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  const std::string command = quoted + "' --version 2>/dev/null </dev/null";
  const auto close = [](FILE* pipe) { ::pclose(pipe); };
  const std::unique_ptr<FILE, decltype(close)> pipe(::popen(command.c_str(), "r"), close);
  std::array<char, 256> line{};
  if (!pipe || std::fgets(line.data(), static_cast<int>(line.size()), pipe.get()) == nullptr) return {};
  return std::string(trim(line.data()));
}

LibraryFacts library_facts(const std::vector<std::string>& names, const char* version_function, bool by_pointer) {
  LibraryFacts facts;
  for (const std::string& name : names) {
    void* library = ::dlopen(name.c_str(), RTLD_LAZY | RTLD_LOCAL);  // stays loaded: some cannot be closed again
    if (library == nullptr) {
      const char* error = ::dlerror();
      facts.load_error = error != nullptr ? error : "";
      continue;
    }
    facts.found = true;
    void* function = ::dlsym(library, version_function);
    if (function == nullptr) return facts;
    Dl_info info = {};
    if (::dladdr(function, &info) != 0 && info.dli_fname != nullptr) facts.path = info.dli_fname;
    if (by_pointer) {
      int version = 0;
      if (reinterpret_cast<int (*)(int*)>(function)(&version) == 0) facts.version = version;
    } else {
      facts.version = static_cast<int64_t>(reinterpret_cast<size_t (*)()>(function)());
    }
    return facts;
  }
  return facts;
}

std::string host_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof name - 1) == 0 ? name : "unknown host";
}

}  // namespace megatron
