// Combinations of settings that make no sense, or that this version cannot run. One table; every rule has a test that
// triggers it.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "config/config.h"

namespace megatron {

struct RuleContext {
  const Config& config;  ///< with derived defaults
  int64_t world_size = 1;
  const std::set<std::string>& derived;  ///< keys that derive_defaults() filled in
};

struct Rule {
  const char* name;
  std::vector<std::string>
      keys;  ///< the keys involved; the message stands at the first one that a file sets; may be empty
  /// What is wrong and what to do, or nullopt.
  std::optional<std::string> (*check)(const RuleContext& context);
};

struct RuleFailure {
  std::string rule;
  std::vector<std::string> keys;
  std::string message;
};

/// The table.
std::vector<Rule> rules();

/// Every broken rule that involves no key of `skip` (keys whose values are wrong already).
std::vector<RuleFailure> broken_rules(const RuleContext& context, const std::set<std::string>& skip = {});

/// Judges a Config that was built by hand: ranges and choices of every key, required keys, rules. Throws UsageError
/// that holds all failures. load_config() has done all of it already.
void validate(const Config& config, int64_t world_size = 1);

/// Looks at the files that the configuration names (tokenizer, PREFIX.bin, PREFIX.idx); one line per missing file.
std::vector<std::string> missing_files(const Config& config);

/// One part of a blend. Without a weight it counts by its number of samples.
struct BlendPart {
  std::optional<double> weight;
  std::string prefix;
};

/// Megatron-LM's rule: weight and prefix in turn when the count is even and every first of a pair is a number, else
/// prefixes alone. A single text that begins with a number ("0.3 a 0.7 b") is taken as its words.
std::vector<BlendPart> parse_blend(const std::vector<std::string>& data_path);

/// What is wrong with the parts, or nullopt: a weight that is not finite and above 0, a number in place of a prefix.
std::optional<std::string> blend_problem(const std::vector<BlendPart>& parts);

/// The three shares of data.split, normalised to sum 1, or nullopt when the text is not a split.
std::optional<std::vector<double>> parse_split(const std::string& split);

namespace detail {  // parts of the table, one file each
void add_model_rules(std::vector<Rule>& table);
void add_layer_rules(std::vector<Rule>& table);
void add_parallel_rules(std::vector<Rule>& table);
void add_data_rules(std::vector<Rule>& table);
void add_training_rules(std::vector<Rule>& table);
void add_optimizer_rules(std::vector<Rule>& table);
void add_checkpoint_rules(std::vector<Rule>& table);
}  // namespace detail

}  // namespace megatron
