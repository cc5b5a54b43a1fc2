// A YAML document as a tree with a place for every key and value. yaml-cpp is known only to tree.cpp.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "config/diagnostics.h"

namespace megatron {

struct Tree {
  enum class Kind { kScalar, kList, kMap };
  struct Entry;

  Kind kind = Kind::kScalar;
  Place place;
  std::string text;            ///< of a scalar
  bool quoted = false;         ///< the scalar was written with quotes: a string whatever it looks like
  std::vector<Tree> items;     ///< of a list
  std::vector<Entry> entries;  ///< of a map, in the order of the file

  bool is_null() const;
};

struct Tree::Entry {
  std::string key;
  Place place;  ///< of the key
  Tree value;
};

/// Parses `text`, which is already source `source`. Syntax errors, duplicate keys, merge keys (<<), tags, keys that are
/// not plain words, and second documents go to `diagnostics`. Returns an empty map when there is nothing to read, and
/// nullopt when the text is not YAML.
/// With `is_value`, `text` is the value of a --set word and any kind of node is fine; columns are moved by `column`.
std::optional<Tree> parse_tree(const std::string& text, int source, Diagnostics& diagnostics, bool is_value = false,
                               int column = 0);

}  // namespace megatron
