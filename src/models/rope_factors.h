// How GGUF files say how LLaMA 3 stretches the rotation: one factor for each pair of channels.
#pragma once

#include <vector>

#include "nn/specs.h"

namespace megatron {

/// Frequency without the rule of LLaMA 3 divided by the frequency with it, for each pair of channels; fp32 as in files.
std::vector<float> rope_factors(const RopeSpec& spec);

}  // namespace megatron
