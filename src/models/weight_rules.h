// What the parameters of a model are called, and how they lie, in the files of other programs: Hugging Face's
// transformers and GGUF (llama.cpp). One table of names per family, read in both directions.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nn/specs.h"
#include "tensor/dtype.h"

namespace megatron {

enum class Family : uint8_t { kGpt2, kLlama, kMistral, kQwen2, kQwen3 };
inline constexpr std::array kAllFamilies = {Family::kGpt2, Family::kLlama, Family::kMistral, Family::kQwen2,
                                            Family::kQwen3};
/// "gpt2", "llama", "mistral", "qwen2", "qwen3": model_type of Hugging Face's config.json.
std::string_view name_of(Family family);
std::optional<Family> parse_family(std::string_view name);

enum class Naming : uint8_t { kHuggingFace, kGguf };

/// A tensor of another program's file.
struct OuterTensor {
  std::string name;
  std::vector<int64_t> shape;
};

/// How the rows of a parameter, seen as a matrix [rows, columns], are those of its parts. Biases have one column.
enum class RowOrder : uint8_t {
  kInTurn,     ///< the parts one after the other: one part that is the parameter, or gate and up
  kGroups,     ///< [G, Q + 2, D]: parts q [G Q D], k [G D] and v [G D]
  kFusedHeads  ///< [G, Q + 2, D]: one part [q; k; v]
};

struct WeightRule {
  std::string name;            ///< ours
  std::vector<int64_t> shape;  ///< ours, as in checkpoints (stored_record)
  int64_t columns = 1;
  std::vector<OuterTensor> parts;
  RowOrder order = RowOrder::kInTurn;
  bool transposed = false;   ///< parts are [columns, rows]
  bool paired_rope = false;  ///< in q and k the rows of a head go by pairs (i, i + D/2), for interleaved rotation
  double offset = 0.0;       ///< theirs = ours + offset: zero-centred norm weights
  int64_t groups = 0, queries = 0, head_dim = 0;  ///< G, Q, D of the layer, where `order` needs them
};

/// The rules of all parameters of `spec`, in the order of the model. DataError where `family` has no name for a
/// parameter (an MLP without a gate in LLaMA, norms with biases, ...).
std::vector<WeightRule> weight_rules(Family family, Naming naming, const ModelSpec& spec);

/// The parameter made of its parts, all of element type `dtype`; sizes are exact.
void assemble(const WeightRule& rule, DType dtype, const std::vector<std::span<const std::byte>>& parts,
              std::span<std::byte> parameter);
/// The inverse: part number `part` of the parameter.
void take_apart(const WeightRule& rule, DType dtype, size_t part, std::span<const std::byte> parameter,
                std::span<std::byte> out);

}  // namespace megatron
