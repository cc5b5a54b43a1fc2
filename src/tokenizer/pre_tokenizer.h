// Cuts text into the pieces within which byte-pair merges happen.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/regex.h"
#include "tokenizer/scanner.h"

namespace megatron {

/// What becomes of a match of a Split step, in the words of a tokenizer.json.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

/// One step; each step cuts the pieces of the step before. Which of the fields count is said by `kind`.
struct PreTokenizerStep {
  enum class Kind {
    kScanner,      ///< cut by a hand-written scanner
    kRegex,        ///< cut by `regex` and `behavior`
    kLiteral,      ///< cut at each occurrence of `literal`, by `behavior`
    kDigits,       ///< cut numbers off: one by one if `individual_digits`
    kPrefixSpace,  ///< put a space before each piece that begins with none
  };
  Kind kind = Kind::kScanner;
  ScannerKind scanner_kind = ScannerKind::kGpt2;
  std::shared_ptr<const Regex> regex;
  std::string literal;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;  ///< what is between the matches counts as match
  bool individual_digits = false;
  std::string description;  ///< everything that decides the cuts, for fingerprints
};

/// Pieces of a text. Those that a step had to write anew live in `storage`, the others in the text.
struct Pieces {
  std::vector<std::string_view> list;
  std::deque<std::string> storage;
};

/// Thread-safe after construction.
class PreTokenizer {
 public:
  PreTokenizer() = default;
  explicit PreTokenizer(std::vector<PreTokenizerStep> steps) : steps_(std::move(steps)) {}

  /// The scanner, when it is the only step: callers then cut the text themselves, without a list.
  Scanner only_scanner() const;
  void split(std::string_view text, Pieces& pieces) const;
  const std::vector<PreTokenizerStep>& steps() const { return steps_; }

 private:
  std::vector<PreTokenizerStep> steps_;
};

/// Joins spans as `behavior` says; empty pieces are left out.
void split_by_spans(std::string_view text, const std::vector<Span>& spans, SplitBehavior behavior, bool invert,
                    std::vector<std::string_view>& out);

}  // namespace megatron
