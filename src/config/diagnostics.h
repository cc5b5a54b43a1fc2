// Errors of a configuration with their places, gathered so that all are reported at once.
#pragma once

#include <string>
#include <vector>

namespace megatron {

/// A place in one of the sources; the line counts from one, the column in characters from one; line 0: no place.
struct Place {
  int source = -1;
  int line = 0;
  int column = 0;

  bool known() const { return source >= 0 && line > 0; }
};

/// Texts that were read: files, and the words after --set (named "<set>").
class Sources {
 public:
  int add(const std::string& name, const std::string& text);
  const std::string& name(int source) const { return names_[static_cast<size_t>(source)]; }

  /// "file:line:col", or an empty string for an unknown place.
  std::string at(const Place& place) const;

  /// The source line and below it a caret, each indented by four blanks; long lines are clipped around the column.
  std::string excerpt(const Place& place) const;

 private:
  std::vector<std::string> names_;
  std::vector<std::vector<std::string>> lines_;
};

class Diagnostics {
 public:
  explicit Diagnostics(const Sources& sources) : sources_(sources) {}

  /// `key` is "section.key", a file, or empty. The same message at the same place is kept once.
  void add(const Place& place, const std::string& key, const std::string& what);
  bool empty() const { return texts_.empty(); }

  /// All diagnostics, one per paragraph, and their number.
  std::string text() const;

  /// Throws UsageError(text()) unless empty.
  void throw_if_any() const;

 private:
  const Sources& sources_;
  std::vector<std::string> texts_;
};

}  // namespace megatron
