// The declarations as text for people (`config explain`) and for editors (JSON Schema).
#pragma once

#include <string>

#include "config/load.h"

namespace megatron {

/// What there is to say about `key`: "section.key", a bare key, a section, or "" for the list of sections. Also takes a
/// Megatron-LM option ("--num-layers"). UsageError with the nearest name when there is no such thing.
std::string explain(const std::string& key);

/// JSON Schema (draft 2020-12) of a configuration file, for editors that check YAML against one.
std::string json_schema();

/// resolved YAML with, behind each value, where it comes from.
std::string show_with_origins(const LoadedConfig& loaded);

}  // namespace megatron
