// Hugging Face's config.json and section `model` of our configuration, in both directions.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "config/config.h"
#include "models/weight_rules.h"

namespace megatron {

/// What a model's own description says.
struct ModelDescription {
  Family family = Family::kLlama;
  ModelConfig model;                 ///< not derived yet; vocab_size is set
  std::optional<std::string> dtype;  ///< "fp32", "bf16", "fp16" where the description says so
  std::vector<std::string> unknown;  ///< keys that mean nothing to us: they may change the model
};

/// Reads a parsed config.json; `where` is its path. DataError for a model_type or a setting that we do not have, a
/// missing key, or a value of the wrong type or out of range: `<path>: <key>: ...`.
ModelDescription read_huggingface_config(const nlohmann::json& json, const std::string& where);

/// The family whose transformers model computes what `model` (derived) says. DataError naming the settings in the way.
Family choose_family(const ModelConfig& model);

/// A config.json for `model` (derived). DataError naming the setting that the family does not know.
nlohmann::json write_huggingface_config(Family family, const ModelConfig& model, int64_t vocab_size,
                                        const std::string& dtype, std::optional<int64_t> eos_token_id);

/// The settings by which two models (derived) compute different things: "rotary_base: 10000 and 500000". How weights
/// start, dropout, and lengths without a table of positions do not count.
std::vector<std::string> model_differences(const ModelConfig& a, const ModelConfig& b);

/// Section `model` with its derived values, checked; a wrong combination is a DataError at `where`.
Config complete_config(const ModelDescription& description, const std::string& dtype, const std::string& where);

}  // namespace megatron
