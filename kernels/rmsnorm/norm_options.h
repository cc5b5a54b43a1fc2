// Shared by RMSNorm and LayerNorm.
#pragma once

#include "program/program.h"

namespace megatron {

struct NormOptions {
  double epsilon = 1e-5;
  bool zero_centered = false;  ///< gamma_eff = 1 + gamma, so that weight decay pulls towards the identity
};

struct NormResult {
  Value y;    ///< the normalised sum
  Value sum;  ///< x + residual; x itself when there is no residual
};

}  // namespace megatron
