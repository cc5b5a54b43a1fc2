#include "cli/config_options.h"

#include <CLI/CLI.hpp>

namespace megatron {

void add_config_options(CLI::App& command, ConfigOptions& options, bool required) {
  // One value per --config and --set: positional words behind them stay what they are.
  command.add_option("-c,--config", options.files, "Configuration file; give several to layer them, later ones win.")
      ->type_name("FILE")
      ->required(required)
      ->expected(1)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command.add_option("--set", options.sets, "One setting from the command line, over all files: optimizer.lr=0.001")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

LoadedConfig load_config(const ConfigOptions& options, int64_t world_size) {
  LoadOptions load;
  load.world_size = world_size;
  return load_config(options.files, options.sets, load);
}

}  // namespace megatron
