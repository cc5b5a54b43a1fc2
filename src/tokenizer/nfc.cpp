// Normalisation form C: decompose, put combining marks in order, compose again.
#include <algorithm>
#include <vector>

#include "tokenizer/flat_map.h"
#include "tokenizer/unicode.h"
#include "tokenizer/unicode_tables.h"

namespace megatron {
namespace {

// Hangul syllables are computed: 19 leading consonants, 21 vowels, 27 trailing consonants or none.
constexpr uint32_t kSyllable = 0xac00, kLead = 0x1100, kVowel = 0x1161, kTail = 0x11a7;
constexpr uint32_t kLeads = 19, kVowels = 21, kTails = 28, kSyllables = kLeads * kVowels * kTails;

/// A character and its canonical combining class. An invalid byte is kept as kByte + its value, class 0.
struct Mark {
  uint32_t value;
  uint32_t combining;
};
constexpr uint32_t kByte = 0x80000000u;

struct NfcTables {
  FlatMap<uint32_t> combining, decomposed, composed;  ///< code point -> class, -> index; pair -> code point

  NfcTables() {
    for (const UnicodeRange& range : combining_ranges()) {
      for (uint32_t c = range.first; c <= range.last; ++c) combining[c] = range.value;
    }
    uint32_t index = 0;
    for (const Decomposition& row : decompositions()) {
      decomposed[row.composed] = index++;
      if (row.composes != 0) composed[(uint64_t{row.first} << 32) | row.second] = row.composed;
    }
  }
};

const NfcTables& tables() {
  static const NfcTables result;
  return result;
}

void decompose(const NfcTables& t, uint32_t c, std::vector<Mark>& out) {
  if (c - kSyllable < kSyllables) {
    const uint32_t s = c - kSyllable;
    out.push_back({kLead + s / (kVowels * kTails), 0});
    out.push_back({kVowel + s / kTails % kVowels, 0});
    if (s % kTails != 0) out.push_back({kTail + s % kTails, 0});
  } else if (const uint32_t* index = t.decomposed.find(c)) {
    const Decomposition& row = decompositions()[*index];
    decompose(t, row.first, out);  // as deep as the table, 4 levels at most
    if (row.second != 0) decompose(t, row.second, out);
  } else {
    const uint32_t* combining = t.combining.find(c);
    out.push_back({c, combining == nullptr ? 0 : *combining});
  }
}

/// 0 when the two do not compose.
uint32_t compose(const NfcTables& t, uint32_t first, uint32_t second) {
  if (first - kLead < kLeads && second - kVowel < kVowels) {
    return kSyllable + ((first - kLead) * kVowels + (second - kVowel)) * kTails;
  }
  if (first - kSyllable < kSyllables && (first - kSyllable) % kTails == 0 && second - kTail - 1 < kTails - 1) {
    return first + (second - kTail);
  }
  const uint32_t* composed = t.composed.find((uint64_t{first} << 32) | second);
  return composed == nullptr ? 0 : *composed;
}

void order_marks(std::vector<Mark>& marks) {
  for (size_t begin = 0; begin < marks.size();) {
    if (marks[begin].combining == 0) {
      ++begin;
      continue;
    }
    size_t end = begin;
    while (end < marks.size() && marks[end].combining != 0) ++end;
    std::stable_sort(marks.begin() + static_cast<ptrdiff_t>(begin), marks.begin() + static_cast<ptrdiff_t>(end),
                     [](const Mark& a, const Mark& b) { return a.combining < b.combining; });
    begin = end;
  }
}

/// In place; returns the new length.
size_t compose_all(const NfcTables& t, std::vector<Mark>& marks) {
  size_t kept = 0;
  ptrdiff_t starter = -1;
  for (const Mark& mark : marks) {
    // Blocked when something of the same or a higher class stands between the starter and this mark.
    const bool adjacent = starter >= 0 && static_cast<size_t>(starter) + 1 == kept;
    const bool open =
        starter >= 0 && (adjacent || (marks[kept - 1].combining < mark.combining && marks[kept - 1].combining != 0));
    const uint32_t composed = open ? compose(t, marks[static_cast<size_t>(starter)].value, mark.value) : 0;
    if (composed != 0) {
      marks[static_cast<size_t>(starter)].value = composed;
      continue;
    }
    if (mark.combining == 0) starter = static_cast<ptrdiff_t>(kept);
    marks[kept++] = mark;
  }
  return kept;
}

}  // namespace

std::string normalize_nfc(std::string_view text) {
  // Below U+0300 every character is a starter that is already composed and takes no part in a composition with what
  // stands before it, so text without such characters is in form C. Lead bytes from 0xcc on begin U+0300 and above.
  const bool plain = std::none_of(text.begin(), text.end(), [](char c) { return static_cast<uint8_t>(c) >= 0xcc; });
  if (plain) return std::string(text);
  const NfcTables& t = tables();
  std::vector<Mark> marks;
  marks.reserve(text.size());
  const char* end = text.data() + text.size();
  for (const char* p = text.data(); p < end;) {
    const CodePoint c = decode_utf8(p, end);
    if (c.value == kInvalidCodePoint) {
      marks.push_back({kByte + static_cast<uint8_t>(*p), 0});
    } else if (c.value < 0xc0) {
      marks.push_back({c.value, 0});
    } else {
      decompose(t, c.value, marks);
    }
    p += c.length;
  }
  order_marks(marks);
  const size_t count = compose_all(t, marks);
  std::string result;
  result.reserve(text.size());
  for (size_t i = 0; i < count; ++i) {
    if (marks[i].value >= kByte) {
      result.push_back(static_cast<char>(marks[i].value - kByte));
    } else {
      append_utf8(result, marks[i].value);
    }
  }
  return result;
}

}  // namespace megatron
