// megatron checkpoint verify | inspect: are checkpoints whole, and what do they hold?
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <iostream>
#include <memory>
#include <string>

#include "base/error.h"
#include "base/host.h"
#include "base/log.h"
#include "base/strings.h"
#include "checkpoint/inspect.h"
#include "checkpoint/layout.h"
#include "cli/commands.h"

namespace megatron {
namespace {

struct CheckpointArguments {
  std::string folder;
  std::string other;
  bool tensors = false, config = false;
};

/// Every byte of every checkpoint is read; the verdicts go to standard output, one line each.
void run_verify(const CheckpointArguments& arguments) {
  size_t damaged = 0;
  const std::vector<std::string> folders = checkpoint_folders(arguments.folder);
  const auto start = std::chrono::steady_clock::now();
  ThreadPool pool(std::max(1, host_facts().processors));
  for (const std::string& folder : folders) {
    const std::vector<std::string> damage = verify_checkpoint(folder, &pool);
    std::cout << folder << ": " << (damage.empty() ? "good" : "DAMAGED") << std::endl;
    for (const std::string& place : damage) std::cout << "  " << place << "\n";
    damaged += !damage.empty();
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  log_info(str_cat("every byte was read, in ", format_duration(took.count())));
  if (damaged > 0) {
    throw DataError(str_cat(damaged, " of ", folders.size(), " checkpoints in ", arguments.folder, " are damaged"));
  }
}

/// The checkpoint itself, or the newest complete one in a folder of checkpoints or a run folder.
CheckpointReader open_for_inspection(const std::string& path) {
  const std::vector<std::string> folders = checkpoint_folders(path);
  if (folders.size() == 1) return CheckpointReader::open_folder(folders[0], Verify::kSizes);
  return *CheckpointReader::open_latest(checkpoint_root(path), Verify::kSizes);
}

void run_inspect(const CheckpointArguments& arguments) {
  const CheckpointReader checkpoint = open_for_inspection(arguments.folder);
  if (arguments.other.empty()) {
    std::cout << describe_checkpoint(checkpoint, arguments.tensors);
    if (arguments.config) std::cout << checkpoint.read_text("resolved.yaml");
    return;
  }
  const CheckpointReader other = open_for_inspection(arguments.other);
  const std::string difference = diff_checkpoints(checkpoint, other);
  std::cout << "--- " << checkpoint.folder() << "\n+++ " << other.folder() << "\n"
            << (difference.empty() ? "no difference\n" : difference);
}

}  // namespace

void add_checkpoint_command(CLI::App& app) {
  auto* command = app.add_subcommand("checkpoint", "Verify checkpoints, or show what they hold.");
  command->require_subcommand(1);
  auto arguments = std::make_shared<CheckpointArguments>();
  constexpr const char* kFolderHelp = "One checkpoint (iter_0000100), a folder of checkpoints, or a run folder.";

  auto* verify = command->add_subcommand(
      "verify",
      "Read every byte of one checkpoint, or of all in a folder, and check it against the stored checksums.\n"
      "Damage is named by file, bytes and tensor; the exit code is 3 when there is any.");
  verify->add_option("DIR", arguments->folder, kFolderHelp)->required();
  verify->callback([arguments] { run_verify(*arguments); });

  auto* inspect = command->add_subcommand(
      "inspect",
      "Show iteration, sizes, files and training state of a checkpoint; of a folder, the newest complete one.");
  inspect->add_option("DIR", arguments->folder, kFolderHelp)->required();
  inspect->add_flag("--tensors", arguments->tensors, "List every tensor with type, shape and size.");
  inspect->add_flag("--config", arguments->config, "Print the configuration of the run that wrote it.");
  inspect
      ->add_option("--diff", arguments->other,
                   "Show instead what differs in this second checkpoint: settings, state, tensors, contents.")
      ->type_name("DIR");
  inspect->callback([arguments] { run_inspect(*arguments); });
}

}  // namespace megatron
