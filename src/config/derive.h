// Defaults that follow from other keys.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "config/config.h"

namespace megatron {

/// Fills in every "derived" member of `config` that is not set, in place; returns one line per choice made. Code that
/// builds a Config by hand (tests) calls this before use; load_config() has already done so. `derived`, where given,
/// receives the keys ("section.key") that were filled in.
std::vector<std::string> derive_defaults(Config& config, int64_t world_size = 1,
                                         std::set<std::string>* derived = nullptr);

}  // namespace megatron
