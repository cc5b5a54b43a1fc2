#include "tokenizer/unicode_tables.h"

namespace megatron {
namespace {

#include "tokenizer/unicode_tables.inc"

}  // namespace

std::span<const UnicodeRange> class_ranges() {
  return kClassRanges;
}
std::span<const UnicodeRange> combining_ranges() {
  return kCombiningRanges;
}
std::span<const Decomposition> decompositions() {
  return kDecompositions;
}

}  // namespace megatron
