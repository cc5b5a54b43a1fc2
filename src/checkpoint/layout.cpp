#include "checkpoint/layout.h"

#include <algorithm>
#include <charconv>
#include <tuple>

#include "base/error.h"
#include "base/file_io.h"
#include "base/strings.h"
#include "checkpoint/manifest.h"

namespace megatron {
namespace {

constexpr std::string_view kIterationPrefix = "iter_";
constexpr size_t kIterationDigits = 7;

}  // namespace

std::string iteration_name(int64_t iteration) {
  std::string digits = std::to_string(iteration);
  if (digits.size() < kIterationDigits) digits.insert(0, kIterationDigits - digits.size(), '0');
  return str_cat(kIterationPrefix, digits);
}

std::optional<int64_t> parse_iteration_name(std::string_view name) {
  if (!starts_with(name, kIterationPrefix)) return std::nullopt;
  const std::string_view digits = name.substr(kIterationPrefix.size());
  int64_t iteration = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), iteration);
  const bool exact = error == std::errc() && iteration >= 0 && iteration_name(iteration) == name;
  return exact ? std::optional(iteration) : std::nullopt;
}

std::vector<Candidate> list_checkpoints(const std::string& root) {
  std::vector<Candidate> candidates;
  for (const std::string& name : list_directory(root)) {
    const auto iteration = parse_iteration_name(name);
    const std::string path = path_join(root, name);
    if (!iteration || !directory_exists(path)) continue;
    Candidate candidate{*iteration, 0, path, ""};
    try {
      candidate.sequence = check_manifest_text(read_manifest_text(path), path_join(path, kManifestName));
    } catch (const DataError& error) {
      candidate.damage = error.what();
    }
    candidates.push_back(std::move(candidate));
  }
  std::sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
    const bool a_readable = a.sequence > 0, b_readable = b.sequence > 0;
    if (a_readable != b_readable) return b_readable;
    return std::tie(a.sequence, a.iteration) > std::tie(b.sequence, b.iteration);
  });
  return candidates;
}

std::string checkpoint_root(const std::string& path) {
  const std::string below = path_join(path, "checkpoints");
  return directory_exists(below) && list_checkpoints(path).empty() ? below : path;
}

}  // namespace megatron
