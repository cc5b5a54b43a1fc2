// Which GPUs this process sees. Only in builds with CUDA.
#pragma once

#include <string>
#include <vector>

namespace megatron {

/// PCI addresses in the order of the driver, "0000:1b:00.0"; empty without a driver. Opens no context.
std::vector<std::string> visible_gpus();

}  // namespace megatron
