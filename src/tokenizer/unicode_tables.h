// The generated Unicode data, for unicode.cpp and nfc.cpp only.
#pragma once

#include <cstdint>
#include <span>

namespace megatron {

struct UnicodeRange {
  uint32_t first, last, value;
};

/// A canonical decomposition, one level deep.
struct Decomposition {
  uint32_t composed, first, second;  ///< second 0: a single character, which never composes back
  uint32_t composes;                 ///< 1 when (first, second) composes to `composed`
};

std::span<const UnicodeRange> class_ranges();
std::span<const UnicodeRange> combining_ranges();  ///< canonical combining class, where it is not 0
std::span<const Decomposition> decompositions();   ///< ordered by `composed`

}  // namespace megatron
