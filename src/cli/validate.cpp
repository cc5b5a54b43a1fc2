// megatron validate: is this configuration sound? Looks at no data unless asked.
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>

#include "base/error.h"
#include "base/strings.h"
#include "cli/commands.h"
#include "cli/config_options.h"
#include "config/rules.h"

namespace megatron {
namespace {

struct ValidateArguments {
  ConfigOptions config;
  int64_t world_size = 1;
  bool check_files = false;
};

void run_validate(const ValidateArguments& arguments) {
  const LoadedConfig loaded = load_config(arguments.config, arguments.world_size);
  if (arguments.check_files) {
    const std::vector<std::string> missing = missing_files(loaded.config);
    if (!missing.empty()) throw DataError(join(missing, "\n"));
  }
  for (const std::string& line : loaded.decisions) std::cout << "decided: " << line << "\n";
  std::cout << "valid for " << arguments.world_size << (arguments.world_size == 1 ? " rank\n" : " ranks\n");
}

}  // namespace

void add_validate_command(CLI::App& app) {
  auto* command = app.add_subcommand("validate", "Check a configuration: keys, types, ranges, combinations.");
  auto arguments = std::make_shared<ValidateArguments>();
  add_config_options(*command, arguments->config);
  command->add_option("--world-size", arguments->world_size, "Number of ranks to reckon with.")
      ->type_name("N")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_flag("--check-files", arguments->check_files,
                    "Also look whether the tokenizer and data files exist (exit code 3 if not).");
  command->callback([arguments] { run_validate(*arguments); });
}

}  // namespace megatron
