// YAML files and `--set` words into a checked Config, and back.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "config/config.h"

namespace megatron {

struct LoadOptions {
  int64_t world_size = 1;   ///< number of ranks the rules reckon with
  bool check_rules = true;  ///< false: syntax, keys, types and ranges only (`config show` of a piece)
};

struct LoadedConfig {
  Config config;                               ///< with all derived defaults filled in
  std::map<std::string, std::string> origins;  ///< "section.key" -> "file:line:col", "<set>", "derived"; else default
  std::vector<std::string> decisions;          ///< one printed line each; see derive_defaults()
};

/// Layers, later wins: defaults, the files that `extends:` names (relative to the naming file), `files` from left to
/// right, `sets` ("section.key=value"). Throws UsageError whose message holds every diagnostic found, each as
/// `file:line:col: section.key: what (did you mean ...)` with the source line and a caret.
LoadedConfig load_config(const std::vector<std::string>& files, const std::vector<std::string>& sets,
                         const LoadOptions& options = {});

/// Same, from text in memory; `name` stands for the file in messages. Reads back what to_yaml wrote.
LoadedConfig load_config_text(const std::string& text, const std::string& name, const LoadOptions& options = {});

/// Every key of every section with its value: `resolved.yaml`. Loading it gives an equal Config.
std::string to_yaml(const Config& config);

/// One section alone, as a piece for `extends:`. Keys at their defaults are left out; long lists take a line each
/// entry.
std::string section_to_yaml(const Config& config, const std::string& section);

/// Hash of the keys that decide what the training computes (those that a resume refuses to change).
uint64_t config_hash(const Config& config);

enum class ChangeKind {
  kAllowed,  ///< may change on resume
  kRefused,  ///< may not: the saved state would not fit or the run would not be the same
  kIgnored,  ///< has no effect on the training (paths, logging, threads)
};

struct ConfigChange {
  std::string key;  ///< "section.key"
  std::string saved;
  std::string now;
  ChangeKind kind;
};

/// The keys that differ, in the order of the sections.
std::vector<ConfigChange> resume_diff(const Config& saved, const Config& now);

/// The lines that a resume prints, one per change; empty when nothing differs.
std::string format_changes(const std::vector<ConfigChange>& changes);

}  // namespace megatron
