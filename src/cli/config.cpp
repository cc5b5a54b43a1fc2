// megatron config show | explain | schema | from-megatron-args
#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>

#include "base/error.h"
#include "base/strings.h"
#include "cli/commands.h"
#include "cli/config_options.h"
#include "config/describe.h"
#include "config/megatron_args.h"

namespace megatron {
namespace {

struct ShowArguments {
  ConfigOptions config;
  bool origin = false;
  bool no_rules = false;
};

void add_show(CLI::App& parent) {
  auto* command = parent.add_subcommand("show", "Print the merged configuration with every key.");
  auto arguments = std::make_shared<ShowArguments>();
  add_config_options(*command, arguments->config, false);
  command->add_flag("--origin", arguments->origin, "Say behind each value where it comes from.");
  command->add_flag("--no-rules", arguments->no_rules,
                    "Do not ask for required keys and sensible combinations: for pieces of configurations.");
  command->callback([arguments] {
    LoadOptions options;
    options.check_rules = !arguments->no_rules && !(arguments->config.files.empty() && arguments->config.sets.empty());
    const LoadedConfig loaded = load_config(arguments->config.files, arguments->config.sets, options);
    std::cout << (arguments->origin ? show_with_origins(loaded) : to_yaml(loaded.config));
  });
}

void add_explain(CLI::App& parent) {
  auto* command = parent.add_subcommand("explain", "Say what a key means: type, range, default, change on resume.");
  auto keys = std::make_shared<std::vector<std::string>>();
  command->add_option("key", *keys, "section.key, a bare key, a section, or a Megatron-LM option after --")
      ->type_name("KEY");
  command->footer(
      "examples:\n  megatron config explain optimizer.lr_decay_style\n  megatron config explain model\n"
      "  megatron config explain -- --num-layers");
  command->callback([keys] {
    if (keys->empty()) std::cout << explain("");
    for (const std::string& key : *keys) std::cout << explain(key);
  });
}

void add_schema(CLI::App& parent) {
  auto* command = parent.add_subcommand("schema", "Print the JSON Schema of a configuration file, for editors.");
  command->callback([] { std::cout << json_schema(); });
}

std::string read_all(const std::string& path) {
  std::ostringstream text;
  if (path == "-") {
    text << std::cin.rdbuf();
    return text.str();
  }
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw UsageError(str_cat("cannot read ", path));
  text << stream.rdbuf();
  return text.str();
}

void print_list(const std::string& title, const std::vector<std::string>& lines) {
  if (lines.empty()) return;
  std::cout << "\n# " << title << "\n";
  for (const std::string& line : lines) std::cout << "#   " << line << "\n";
}

struct FromArguments {
  std::string file;
  std::vector<std::string> words;
};

void add_from_megatron_args(CLI::App& parent) {
  auto* command = parent.add_subcommand(
      "from-megatron-args", "Translate a Megatron-LM command line into YAML and list what has no counterpart.");
  auto arguments = std::make_shared<FromArguments>();
  command->add_option("--file", arguments->file, "Read the command line from a file (- is standard input).")
      ->type_name("FILE");
  command->add_option("args", arguments->words, "The command line, after --")->type_name("ARGS");
  command->footer("example:\n  megatron config from-megatron-args -- --num-layers 24 --hidden-size 1024 --bf16");
  command->callback([arguments] {
    std::vector<std::string> words = arguments->words;
    if (!arguments->file.empty()) {
      if (!words.empty()) throw UsageError("give either --file or a command line after --");
      words = split_words(read_all(arguments->file));
    }
    if (words.empty()) throw UsageError("nothing to translate: give --file FILE, or a command line after --");
    const TranslatedArgs result = translate_megatron_args(words);
    std::cout << result.yaml;
    print_list("decisions", result.notes);
    print_list("not supported yet", result.not_supported);
    print_list("no counterpart", result.no_counterpart);
  });
}

}  // namespace

void add_config_command(CLI::App& app) {
  auto* command = app.add_subcommand("config", "Look at configurations and translate them.");
  command->require_subcommand(1);
  add_show(*command);
  add_explain(*command);
  add_schema(*command);
  add_from_megatron_args(*command);
}

}  // namespace megatron
