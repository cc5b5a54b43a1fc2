// Entry point: parses the command line, runs one sub-command, turns errors into exit codes.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/strings.h"
#include "cli/commands.h"
#include "cli/stop.h"
#include "comm/world.h"
#include "train/version.h"

namespace megatron {
namespace {

std::vector<std::string> subcommand_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* sub : app.get_subcommands({})) names.push_back(sub->get_name());
  return names;
}

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

std::string did_you_mean(const std::string& word, const std::vector<std::string>& names) {
  const std::string near = closest_match(word, names);
  return near.empty() ? "" : str_cat("; did you mean '", near, "'?");
}

/// One message for words that do not fit. CLI11 speaks of what is missing, but a word that it could not place says
/// more.
std::string explain(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App* command = &app;
  std::string path = app.get_name();
  while (!command->get_subcommands().empty()) {
    command = command->get_subcommands()[0];
    path += " " + command->get_name();
  }
  const std::vector<std::string> left = app.remaining(true), commands = subcommand_names(*command);
  const std::string word = left.empty() ? "" : left[0].substr(0, left[0].find('='));
  std::string what = error.what();
  if (starts_with(word, "-")) {
    what = str_cat("unknown option '", word, "'", did_you_mean(word, option_names(*command)));
  } else if (!word.empty() && !commands.empty()) {
    what = str_cat("unknown command '", word, "'", did_you_mean(word, commands), "\ncommands: ", join(commands, ", "));
  } else if (!word.empty()) {
    what = str_cat("unexpected word '", left[0], "'");
  } else if (!commands.empty()) {
    what = str_cat("a command is missing: ", join(commands, ", "));
  }
  return str_cat(path, ": ", what, "\nsee ", path, " --help");
}

int run(int argc, char** argv) {
  CLI::App app("Trains, fine-tunes and runs large language models from YAML files.", "megatron");
  app.set_version_flag("--version", std::string("megatron ") + kVersion);
  app.require_subcommand(1);
  add_bench_command(app);
  add_checkpoint_command(app);
  add_config_command(app);
  add_convert_command(app);
  add_data_command(app);
  add_doctor_command(app);
  add_finetune_command(app);
  add_generate_command(app);
  add_plan_command(app);
  add_preprocess_command(app);
  add_pretrain_command(app);
  add_tokenizer_command(app);
  add_validate_command(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    std::fprintf(stderr, "error: %s\n", explain(app, error).c_str());
    return static_cast<int>(ExitCode::kUsage);
  } catch (const StoppedResumable&) {
    return static_cast<int>(ExitCode::kResumable);
  } catch (const SaidElsewhere& error) {
    return static_cast<int>(error.code());
  } catch (const Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return static_cast<int>(error.code());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "internal error: %s\n", error.what());
    return static_cast<int>(ExitCode::kInternal);
  }
  return static_cast<int>(ExitCode::kDone);
}

}  // namespace
}  // namespace megatron

int main(int argc, char** argv) {
  return megatron::run(argc, argv);
}
