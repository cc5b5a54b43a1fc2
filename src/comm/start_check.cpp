#include "comm/start_check.h"

#include <algorithm>

#include "base/check.h"
#include "base/error.h"
#include "base/file_io.h"
#include "base/hash.h"
#include "base/strings.h"

namespace megatron {

void compare_start(World& world, const StartFacts& facts) {
  const char separator = '\0';
  std::string mine = world.info().host;
  for (const auto& [name, value] : facts) mine += separator + name + separator + value;
  const std::vector<std::string> all = world.gather(mine);
  const std::vector<std::string> first = split(all[0], separator);
  std::vector<std::string> problems;
  for (size_t r = 1; r < all.size(); ++r) {
    const std::vector<std::string> other = split(all[r], separator);
    const std::string who = str_cat("rank ", r, " (", other[0], ")");
    if (other.size() != first.size()) {
      problems.push_back(who + " compares other things at its start: it is another version of the program");
      continue;
    }
    for (size_t i = 1; i + 1 < other.size(); i += 2) {
      if (other[i] == first[i] && other[i + 1] == first[i + 1]) continue;
      problems.push_back(
          str_cat(who, " has ", other[i], " ", other[i + 1], ", rank 0 (", first[0], ") has ", first[i + 1]));
    }
  }
  if (problems.empty()) return;
  const size_t count = problems.size();
  if (count > 8) {
    problems.resize(8);
    problems.push_back(str_cat("and ", count - 8, " more"));
  }
  throw UsageError("the ranks were not started alike:\n  " + join(problems, "\n  "));
}

std::string build_identity() {
  const FileReader file("/proc/self/exe");
  Xxh64 hash;
  std::vector<std::byte> part(size_t{1} << 20);
  for (int64_t at = 0; at < file.size();) {
    const auto size = std::min<int64_t>(file.size() - at, static_cast<int64_t>(part.size()));
    const std::span<std::byte> bytes(part.data(), static_cast<size_t>(size));
    file.read_at(at, bytes);
    hash.update(bytes);
    at += size;
  }
  return hex64(hash.digest());
}

}  // namespace megatron
