// The table of Megatron-LM's command line (megatron_args.tsv, compiled in), and the translation of such a command line.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace megatron {

struct MegatronOption {
  std::string_view options;  ///< all spellings, separated by blanks
  std::string_view key;      ///< "section.key", "section.key: value", or empty: no counterpart
  char values;               ///< '0' a switch, '1' one value, '+' a list
  std::string_view note;     ///< why there is no counterpart
};

/// All rows of the table.
const std::vector<MegatronOption>& megatron_options();

/// The row with the spelling `option` ("--num-layers"); underscores count as hyphens. Null when there is none.
const MegatronOption* find_megatron_option(std::string_view option);

/// First spellings of the options that set "section.key".
std::vector<std::string> options_of_key(const std::string& key);

/// True when the table knows "section.key" although no section declares it: a part that is not built yet.
bool is_planned_key(const std::string& key);

struct TranslatedArgs {
  std::string yaml;                         ///< the configuration, sections in order
  std::vector<std::string> notes;           ///< what was decided in translating
  std::vector<std::string> no_counterpart;  ///< options that mean nothing here, each with its reason
  std::vector<std::string> not_supported;   ///< options known but not supported yet, each with its key
};

/// Translates a command line ("--num-layers 4 --swiglu ..."). Words before the first option are skipped (`python
/// pretrain_gpt.py`). Throws UsageError that lists every unknown option and every missing or unreadable value.
TranslatedArgs translate_megatron_args(const std::vector<std::string>& words);

/// Splits the text of a shell script or options file into words: blanks, quotes, backslashes at line ends, # comments.
std::vector<std::string> split_words(std::string_view text);

}  // namespace megatron
