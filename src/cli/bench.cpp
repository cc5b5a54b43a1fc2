// `megatron bench`: speed and correctness of the parts, each its own sub-command.
#include <CLI/CLI.hpp>

#include "cli/bench.h"
#include "cli/commands.h"

namespace megatron {

void add_bench_command(CLI::App& app) {
  CLI::App* bench = app.add_subcommand("bench", "Measure and check the parts: operations, communication.");
  bench->require_subcommand(1);
  add_bench_ops_command(*bench);
  add_bench_comm_command(*bench);
}

}  // namespace megatron
