// Assigns the values of one YAML tree to a Config, field by field.
#pragma once

#include <map>
#include <set>
#include <string>

#include "config/diagnostics.h"
#include "config/field.h"
#include "config/tree.h"

namespace megatron {

/// What several layers share while they are read.
struct ReadState {
  Config config;
  std::map<std::string, Place> places;  ///< where each key got its value last
  std::set<std::string> bad_keys;       ///< keys with an error in any layer: rules about them are not judged
  Diagnostics* diagnostics = nullptr;
};

/// Reads all sections of `tree` (the top level `extends` is left alone).
void read_sections(const Tree& tree, ReadState& state);

/// Reads one "section.key" with its value.
void read_key(const std::string& section, const std::string& key, const Place& key_place, const Tree& value,
              ReadState& state);

}  // namespace megatron
