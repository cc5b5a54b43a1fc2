// Before anything else the ranks compare what they were started with.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "comm/world.h"

namespace megatron {

/// Name and value of something that must be equal on all ranks: {"build", ...}, {"configuration", ...}.
using StartFacts = std::vector<std::pair<std::string, std::string>>;

/// UsageError, the same on all ranks, that names every difference: which rank and host, what, and both values. A
/// collective call.
void compare_start(World& world, const StartFacts& facts);

/// Identifies this very program: 16 hexadecimal digits of a hash of its file.
std::string build_identity();

}  // namespace megatron
