// Names inside a checkpoint folder:
//   iter_0000100/    a committed checkpoint         .tmp-...     staging of a save that runs or died
//   latest           name of the last commit (hint) .trash-...   a checkpoint on its way out
//   .owner           lock of the job that writes here
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace megatron {

inline constexpr std::string_view kLatestName = "latest";
inline constexpr std::string_view kOwnerName = ".owner";
inline constexpr std::string_view kStagingPrefix = ".tmp-";
inline constexpr std::string_view kTrashPrefix = ".trash-";

/// "iter_0000100".
std::string iteration_name(int64_t iteration);
/// The inverse; nothing for any other spelling.
std::optional<int64_t> parse_iteration_name(std::string_view name);

/// A folder iter_* as found. `sequence` is 0 when its manifest cannot be trusted; `damage` then says why.
struct Candidate {
  int64_t iteration = 0;
  int64_t sequence = 0;
  std::string path;
  std::string damage;
};

/// All iter_* folders of `root`, newest commit first; those with a damaged manifest stand first, by iteration.
std::vector<Candidate> list_checkpoints(const std::string& root);

/// Where the iter_* folders are: `path` itself, or path/checkpoints when `path` is a run folder.
std::string checkpoint_root(const std::string& path);

}  // namespace megatron
