// The pre-tokenizer patterns of the common model families as hand-written scanners. Each gives, at any place, the same
// piece as its regular expression; what no alternative of the expression could match does not exist for these.
#pragma once

#include <optional>
#include <string_view>

namespace megatron {

enum class ScannerKind {
  kGpt2,    ///< 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
  kLlama3,  ///< contractions in any case, a leading sign with words, up to three digits, newlines of their own
  kQwen2,   ///< like kLlama3, digits one by one
};

/// The regular expression in the words of a tokenizer.json.
std::string_view scanner_pattern(ScannerKind kind);
std::optional<ScannerKind> scanner_for_pattern(std::string_view pattern);

/// End of the piece that begins at p; needs p < end. Takes time proportional to the piece (plus one character). Bytes
/// that are not UTF-8 count as signs: neither letter, number nor space.
using Scanner = const char* (*)(const char* p, const char* end);
Scanner scanner(ScannerKind kind);

}  // namespace megatron
