#include "tokenizer/pre_tokenizer.h"

#include <algorithm>

#include "tokenizer/unicode.h"

namespace megatron {
namespace {

std::vector<Span> literal_spans(std::string_view text, std::string_view literal) {
  std::vector<Span> spans;
  size_t done = 0;
  for (size_t at = text.find(literal); at != text.npos; at = text.find(literal, done)) {
    if (at > done) spans.push_back({done, at, false});
    done = at + literal.size();
    spans.push_back({at, done, true});
  }
  if (done < text.size()) spans.push_back({done, text.size(), false});
  return spans;
}

/// One span per character that is a number, one per run of other characters.
std::vector<Span> number_spans(std::string_view text) {
  std::vector<Span> spans;
  const char* end = text.data() + text.size();
  for (const char* p = text.data(); p < end;) {
    const CodePoint c = decode_utf8(p, end);
    const auto begin = static_cast<size_t>(p - text.data());
    const bool number = (char_class(c.value) & kNumber) != 0;
    if (!number && !spans.empty() && !spans.back().matched) {
      spans.back().end += c.length;
    } else {
      spans.push_back({begin, begin + c.length, number});
    }
    p += c.length;
  }
  return spans;
}

void scan(std::string_view text, Scanner next, std::vector<std::string_view>& out) {
  const char* end = text.data() + text.size();
  for (const char* p = text.data(); p < end;) {
    const char* stop = next(p, end);
    out.emplace_back(p, static_cast<size_t>(stop - p));
    p = stop;
  }
}

void apply(const PreTokenizerStep& step, std::string_view text, Pieces& pieces) {
  using Kind = PreTokenizerStep::Kind;
  switch (step.kind) {
    case Kind::kScanner:
      scan(text, scanner(step.scanner_kind), pieces.list);
      return;
    case Kind::kRegex:
      split_by_spans(text, step.regex->spans(text), step.behavior, step.invert, pieces.list);
      return;
    case Kind::kLiteral:
      split_by_spans(text, literal_spans(text, step.literal), step.behavior, step.invert, pieces.list);
      return;
    case Kind::kDigits:
      split_by_spans(text, number_spans(text),
                     step.individual_digits ? SplitBehavior::kIsolated : SplitBehavior::kContiguous, false,
                     pieces.list);
      return;
    case Kind::kPrefixSpace:
      if (text.empty() || text.front() == ' ') {
        pieces.list.push_back(text);
      } else {
        std::string& written = pieces.storage.emplace_back(1, ' ');
        written += text;
        pieces.list.push_back(written);
      }
      return;
  }
}

}  // namespace

void split_by_spans(std::string_view text, const std::vector<Span>& spans, SplitBehavior behavior, bool invert,
                    std::vector<std::string_view>& out) {
  std::vector<std::pair<size_t, size_t>> ranges;
  const auto matched = [&](size_t i) { return spans[i].matched != invert; };
  for (size_t i = 0; i < spans.size(); ++i) {
    const bool before = i > 0 && matched(i - 1);
    bool join_previous = false;
    switch (behavior) {
      case SplitBehavior::kRemoved:
        if (matched(i)) continue;
        break;
      case SplitBehavior::kIsolated:
        break;
      case SplitBehavior::kMergedWithPrevious:
        join_previous = matched(i) && !before;
        break;
      // A match joins what follows it, unless that is a match too.
      case SplitBehavior::kMergedWithNext:
        join_previous = !matched(i) && before;
        break;
      case SplitBehavior::kContiguous:
        join_previous = i > 0 && matched(i) == before;
        break;
    }
    if (join_previous && !ranges.empty()) {
      ranges.back().second = spans[i].end;
    } else {
      ranges.emplace_back(spans[i].begin, spans[i].end);
    }
  }
  for (const auto& [begin, end] : ranges) {
    if (end > begin) out.push_back(text.substr(begin, end - begin));
  }
}

Scanner PreTokenizer::only_scanner() const {
  const bool only = steps_.size() == 1 && steps_[0].kind == PreTokenizerStep::Kind::kScanner;
  return only ? scanner(steps_[0].scanner_kind) : nullptr;
}

void PreTokenizer::split(std::string_view text, Pieces& pieces) const {
  pieces.list.assign(1, text);
  pieces.storage.clear();
  if (text.empty()) pieces.list.clear();
  std::vector<std::string_view> before;
  for (const PreTokenizerStep& step : steps_) {
    before.swap(pieces.list);
    pieces.list.clear();
    for (std::string_view piece : before) apply(step, piece, pieces);
  }
}

}  // namespace megatron
