#include "config/diagnostics.h"

#include <algorithm>

#include "base/error.h"
#include "base/strings.h"

namespace megatron {
namespace {

constexpr size_t kClip = 110;  // characters of a source line that are shown

/// UTF-8 text as one string per character, so that columns and clipping count what the eye counts.
std::vector<std::string> characters(const std::string& text) {
  std::vector<std::string> out;
  for (const char c : text) {
    const bool continues = (static_cast<unsigned char>(c) & 0xC0) == 0x80;
    if (continues && !out.empty()) {
      out.back() += c;
    } else {
      out.emplace_back(1, c);
    }
  }
  return out;
}

}  // namespace

int Sources::add(const std::string& name, const std::string& text) {
  names_.push_back(name);
  std::vector<std::string> lines = split(text, '\n');
  for (std::string& line : lines) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
  }
  lines_.push_back(std::move(lines));
  return static_cast<int>(names_.size()) - 1;
}

std::string Sources::at(const Place& place) const {
  return place.known() ? str_cat(name(place.source), ":", place.line, ":", place.column) : "";
}

std::string Sources::excerpt(const Place& place) const {
  if (!place.known()) return "";
  const auto& lines = lines_[static_cast<size_t>(place.source)];
  const auto index = static_cast<size_t>(place.line) - 1;
  const std::vector<std::string> all = characters(index < lines.size() ? lines[index] : "");
  const size_t column = std::min(static_cast<size_t>(std::max(place.column, 1)) - 1, all.size());
  const size_t begin = column > kClip - 20 ? column - (kClip - 20) : 0;
  const size_t end = std::min(all.size(), begin + kClip);
  std::string shown = begin > 0 ? "..." : "";
  std::string pad(shown.size(), ' ');
  for (size_t i = begin; i < end; ++i) {
    shown += all[i];
    if (i < column) pad += all[i] == "\t" ? "\t" : " ";
  }
  if (end < all.size()) shown += "...";
  return str_cat("    ", shown, "\n    ", pad, "^");
}

void Diagnostics::add(const Place& place, const std::string& key, const std::string& what) {
  std::string text;
  if (place.known()) text += sources_.at(place) + ": ";
  if (!key.empty()) text += key + ": ";
  text += what;
  if (place.known()) text += "\n" + sources_.excerpt(place);
  if (std::find(texts_.begin(), texts_.end(), text) == texts_.end()) texts_.push_back(text);
}

std::string Diagnostics::text() const {
  const size_t count = texts_.size();
  return str_cat("the configuration has ", count, count == 1 ? " error\n" : " errors\n", join(texts_, "\n"));
}

void Diagnostics::throw_if_any() const {
  if (!empty()) throw UsageError(text());
}

}  // namespace megatron
