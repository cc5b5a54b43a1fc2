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
#include "train/version.h"

namespace megatron {
namespace {

std::vector<std::string> subcommand_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* sub : app.get_subcommands({})) names.push_back(sub->get_name());
  return names;
}

/// CLI11 only says that a sub-command is required; we name the nearest one.
void check_first_word(const CLI::App& app, int argc, char** argv) {
  if (argc < 2 || argv[1][0] == '-') return;
  const std::vector<std::string> names = subcommand_names(app);
  for (const std::string& name : names) {
    if (name == argv[1]) return;
  }
  const std::string near = closest_match(argv[1], names);
  throw UsageError(str_cat("unknown command '", argv[1], "'", near.empty() ? "" : str_cat("; did you mean '", near, "'?"),
                           "\ncommands: ", join(names, ", ")));
}

int run(int argc, char** argv) {
  CLI::App app("Trains, fine-tunes and runs large language models from YAML files.", "megatron");
  app.set_version_flag("--version", std::string("megatron ") + kVersion);
  app.require_subcommand(1);
  app.failure_message(CLI::FailureMessage::help);
  add_bench_command(app);
  add_checkpoint_command(app);
  add_config_command(app);
  add_data_command(app);
  add_finetune_command(app);
  add_generate_command(app);
  add_plan_command(app);
  add_preprocess_command(app);
  add_pretrain_command(app);
  add_tokenizer_command(app);
  add_validate_command(app);
  try {
    check_first_word(app, argc, argv);
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : static_cast<int>(ExitCode::kUsage);
  } catch (const StoppedResumable&) {
    return static_cast<int>(ExitCode::kResumable);
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

int main(int argc, char** argv) { return megatron::run(argc, argv); }
