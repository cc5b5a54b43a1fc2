// The sub-commands of `megatron bench`, one file each.
#pragma once

namespace CLI {
class App;
}

namespace megatron {

/// `megatron bench ops`: values, gradients, repeatability and speed of the operations.
void add_bench_ops_command(CLI::App& bench);

/// `megatron bench comm`: values and speed of the collectives between the ranks that were started.
void add_bench_comm_command(CLI::App& bench);

}  // namespace megatron
