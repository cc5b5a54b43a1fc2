// How a command that stopped on request tells main to end with code 75.
#pragma once

namespace megatron {

/// Not an error: the work was saved and the same command goes on with it. main() prints nothing and exits with 75.
struct StoppedResumable {};

}  // namespace megatron
