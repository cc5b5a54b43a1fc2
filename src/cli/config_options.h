// The options --config and --set, which every command that reads a configuration shares.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/load.h"

namespace CLI {
class App;
}

namespace megatron {

struct ConfigOptions {
  std::vector<std::string> files;
  std::vector<std::string> sets;
};

/// Adds --config FILE (one or more, later wins) and --set section.key=value (any number) to `command`. `options` must
/// live until the command line is parsed and used.
void add_config_options(CLI::App& command, ConfigOptions& options, bool required = true);

/// load_config() of what was given.
LoadedConfig load_config(const ConfigOptions& options, int64_t world_size = 1);

}  // namespace megatron
