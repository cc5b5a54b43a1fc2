// Facts about the machine that this process runs on. Nothing here throws: what cannot be found out is 0 or empty.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace megatron {

/// Name of this machine; "unknown host" where the system does not tell.
std::string host_name();

/// Processors that this process may use (affinity), and all of this machine that are on.
int usable_processors();
int online_processors();

struct HostFacts {
  std::string system;     ///< "Linux 6.1.0 x86_64"
  std::string processor;  ///< model name
  int processors = 0;     ///< this process may use them (affinity)
  int numa_nodes = 0;
  int64_t memory_total = 0, memory_available = 0;
};
HostFacts host_facts();

/// Value of the first line "key : value" of a file such as /proc/cpuinfo; empty when there is none.
std::string proc_value(const char* path, const std::string& key);

/// Bytes that the system could still give without swapping; 0 when unknown.
int64_t available_host_memory();

/// Soft limits of this process; kUnlimited when there is none.
inline constexpr int64_t kUnlimited = -1;
struct HostLimits {
  int64_t locked_bytes = 0;  ///< ulimit -l
  int64_t open_files = 0;    ///< ulimit -n
};
HostLimits host_limits();

/// Size and free bytes of the file system at `path`.
struct FileSystemFacts {
  int64_t total = 0, free = 0;
  bool exists = false;
};
FileSystemFacts file_system_facts(const std::string& path);

/// Path of a program on PATH; empty when it is not there.
std::string find_program(const std::string& name);

/// First line that `program --version` prints, or empty. `program` is a path from find_program.
std::string program_version(const std::string& program);

/// A shared library and what its version function says.
struct LibraryFacts {
  bool found = false;
  std::string path;        ///< of the file that was loaded
  int64_t version = 0;     ///< as the library counts
  std::string load_error;  ///< of the last name tried, when not found
};
/// Loads the first of `names`; then asks `version_function`: `size_t f(void)`, or with `by_pointer` `int f(int*)`.
LibraryFacts library_facts(const std::vector<std::string>& names, const char* version_function,
                           bool by_pointer = false);

}  // namespace megatron
