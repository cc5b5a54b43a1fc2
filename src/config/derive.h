// Defaults that follow from other keys.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "config/config.h"

namespace megatron {

/// Fills in every "derived" member of `config` that is not set, in place. Returns one line per decision: values
/// reckoned from other keys, and values set against what the file says; plain defaults and other names of a key's value
/// are not among them. Code that builds a Config by hand (tests) calls this before use; load_config() has already done
/// so. `derived`, where given, receives all keys ("section.key") that were filled in.
std::vector<std::string> derive_defaults(Config& config, int64_t world_size = 1,
                                         std::set<std::string>* derived = nullptr);

}  // namespace megatron
