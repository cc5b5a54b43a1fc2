// Regular expressions of pre-tokenizers, run by PCRE2 where no hand-written scanner exists.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace megatron {

/// A stretch of text, and whether the pattern matched it.
struct Span {
  size_t begin, end;
  bool matched;
};

/// Thread-safe after construction.
class Regex {
 public:
  /// The dialect is that of Hugging Face's `tokenizers` (Oniguruma, Ruby syntax) as far as PCRE2 means the same by it:
  /// Unicode classes, `^` and `$` at every line. What means something else there (\h, && in a class) and what PCRE2
  /// can't compile throws DataError with the reason; `place` names file and position.
  Regex(const std::string& pattern, const std::string& place);
  ~Regex();
  Regex(Regex&&) noexcept;

  /// Cuts the whole text into matches and what lies between them. Bytes that are not UTF-8 are never matched.
  std::vector<Span> spans(std::string_view text) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace megatron
