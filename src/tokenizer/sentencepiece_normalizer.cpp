#include "tokenizer/sentencepiece_normalizer.h"

#include <cstring>

#include "base/error.h"
#include "base/strings.h"
#include "tokenizer/unicode.h"

namespace megatron {
namespace {

// Parts of a unit of the double array.
bool has_value(uint32_t unit) {
  return (unit >> 8 & 1) != 0;
}
uint32_t value_of(uint32_t unit) {
  return unit & 0x7fffffff;
}
/// With the highest bit, which units of values have and bytes never do.
uint32_t label_of(uint32_t unit) {
  return unit & 0x800000ff;
}
uint32_t offset_of(uint32_t unit) {
  return (unit >> 10) << ((unit & 0x200) >> 6);
}

}  // namespace

CharsMap::CharsMap(const std::string& bytes, const std::string& path) : path_(path) {
  if (bytes.empty()) return;
  uint32_t size = 0;
  if (bytes.size() >= sizeof size) std::memcpy(&size, bytes.data(), sizeof size);
  if (size == 0 || size % sizeof(uint32_t) != 0 || size >= bytes.size() - sizeof size || bytes.back() != '\0') {
    throw DataError(str_cat(path, ": the table of normalisation (precompiled_charsmap) has ", bytes.size(),
                            " bytes, which do not fit the size ", size,
                            " of its index; the file is damaged: fetch it again"));
  }
  units_.resize(size / sizeof(uint32_t));
  std::memcpy(units_.data(), bytes.data() + sizeof size, size);
  replacements_ = bytes.substr(sizeof size + size);
}

size_t CharsMap::find(std::string_view text, std::string_view& replacement) const {
  if (units_.empty()) return 0;
  const auto damaged = [&] {
    throw DataError(path_ +
                    ": the table of normalisation (precompiled_charsmap) points outside of itself; the file is "
                    "damaged: fetch it again");
  };
  const auto unit_at = [&](size_t position) {
    if (position >= units_.size()) damaged();
    return units_[position];
  };
  size_t longest = 0;
  size_t position = offset_of(unit_at(0));
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<uint8_t>(text[i]);
    position ^= byte;
    if (position >= units_.size() || label_of(units_[position]) != byte) break;  // that byte does not follow
    const uint32_t unit = units_[position];
    position ^= offset_of(unit);
    if (!has_value(unit)) continue;
    const uint32_t value = value_of(unit_at(position));
    if (value >= replacements_.size()) damaged();
    replacement = replacements_.c_str() + value;  // up to its zero
    longest = i + 1;
  }
  return longest;
}

SentencePieceNormalizer::SentencePieceNormalizer(const SentencePieceDefinition& d, PrefixIndex protected_pieces)
    : dummy_prefix_(d.dummy_prefix),
      suffix_instead_(d.suffix_instead),
      collapse_spaces_(d.collapse_spaces),
      mark_spaces_(d.mark_spaces),
      skip_prefix_before_mark_(d.skip_prefix_before_mark),
      charsmap_(d.charsmap, d.source),
      protected_(std::move(protected_pieces)) {}

std::string_view SentencePieceNormalizer::step(std::string_view text, size_t& consumed) const {
  consumed = protected_.longest(text);
  if (consumed > 0) return text.substr(0, consumed);
  std::string_view replacement;
  consumed = charsmap_.find(text, replacement);
  if (consumed > 0) return replacement;
  consumed = decode_utf8(text.data(), text.data() + text.size()).length;
  return text.substr(0, consumed);
}

void SentencePieceNormalizer::append(std::string& out, std::string_view text) const {
  for (const char c : text) {
    if (c == ' ' && mark_spaces_) {
      out += kSpaceMark;
    } else {
      out += c;
    }
  }
}

std::string SentencePieceNormalizer::normalize(std::string_view text, bool first) const {
  size_t consumed = 0;
  while (collapse_spaces_ && !text.empty() && step(text, consumed) == " ") text.remove_prefix(consumed);
  std::string out;
  if (text.empty()) return out;
  out.reserve(text.size() + text.size() / 4 + 3);
  const std::string_view space = mark_spaces_ ? kSpaceMark : " ";
  const bool marked = skip_prefix_before_mark_ && (text[0] == ' ' || starts_with(text, kSpaceMark));
  const bool dummy = dummy_prefix_ == DummyPrefix::kAlways || (dummy_prefix_ == DummyPrefix::kFirst && first);
  if (dummy && !suffix_instead_ && !marked) out += space;
  bool behind_space = collapse_spaces_;
  while (!text.empty()) {
    std::string_view part = step(text, consumed);
    while (behind_space && starts_with(part, " ")) part.remove_prefix(1);
    if (!part.empty()) {
      append(out, part);
      behind_space = part.back() == ' ';
    }
    if (!collapse_spaces_) behind_space = false;
    text.remove_prefix(consumed);
  }
  while (collapse_spaces_ && out.size() >= space.size() && out.ends_with(space)) out.resize(out.size() - space.size());
  if (dummy && suffix_instead_) out += space;
  return out;
}

}  // namespace megatron
