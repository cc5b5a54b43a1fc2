// From one form of a trained model to another: checkpoints of ours, Hugging Face folders, GGUF files.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "checkpoint/model_source.h"

namespace megatron {

enum class ModelFormat : uint8_t { kMegatron, kHuggingFace, kGguf };
/// "megatron", "huggingface", "gguf".
std::string_view name_of(ModelFormat format);
std::optional<ModelFormat> parse_model_format(std::string_view name);

/// What a model becomes when nobody says: a GGUF file when `to` ends so, else a checkpoint of ours becomes a Hugging
/// Face folder, and the rest one of ours.
ModelFormat target_format(const ModelSource& source, const std::string& to);

/// Writes the weights of `source` to `to`, which must not exist yet (a folder of checkpoints may, but holds none);
/// element type `dtype`, "" keeps the source's; a GGUF file may also have
/// "q8_0". Small files go along. Nothing is left behind by a failure. Memory: one
/// parameter. UsageError: `to` exists. DataError: the target has no place for a setting of the model.
void convert_model(const ModelSource& source, const std::string& to, ModelFormat format, const std::string& dtype);

namespace detail {
void write_huggingface(const ModelSource& source, const std::string& folder, const std::string& dtype,
                       int64_t shard_bytes);
void write_gguf(const ModelSource& source, const std::string& path, const std::string& dtype);
}  // namespace detail

}  // namespace megatron
