// From one form of a trained model to another: checkpoints of ours, Hugging Face folders.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "checkpoint/model_source.h"

namespace megatron {

enum class ModelFormat : uint8_t { kMegatron, kHuggingFace };
/// "megatron", "huggingface".
std::string_view name_of(ModelFormat format);
std::optional<ModelFormat> parse_model_format(std::string_view name);

/// What a model becomes when nobody says: a checkpoint of ours becomes a Hugging Face folder, the rest one of ours.
ModelFormat target_format(const ModelSource& source, const std::string& to);

/// Writes the weights of `source` to `to`, which must not exist yet (a folder of checkpoints may, but holds none);
/// element type `dtype`, "" keeps the source's. Small files go along. Nothing is left behind by a failure. Memory: one
/// parameter. UsageError: `to` exists. DataError: the target has no place for a setting of the model.
void convert_model(const ModelSource& source, const std::string& to, ModelFormat format, const std::string& dtype);

namespace detail {
void write_huggingface(const ModelSource& source, const std::string& folder, const std::string& dtype,
                       int64_t shard_bytes);
}

}  // namespace megatron
