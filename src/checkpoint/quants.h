// Element types of GGUF files: plain ones, and those of llama.cpp that store blocks of small integers with a scale.
// Layouts: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and ggml-common.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace megatron {

/// Values are the numbers in the file.
enum class GgmlType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ8_0 = 8,
  kQ4_K = 12,
  kQ6_K = 14,
  kBF16 = 30
};

/// "F32", "Q4_K", ...
std::string_view name_of(GgmlType type);
/// The type with this number; nothing when it is not one of those above.
std::optional<GgmlType> ggml_type(uint32_t number);
/// Elements of a block, which is the unit that is stored, and its bytes.
int64_t block_elements(GgmlType type);
int64_t block_bytes(GgmlType type);

/// Blocks to fp32: `out` has block_elements for each block_bytes of `blocks`.
void dequantize(GgmlType type, std::span<const std::byte> blocks, std::span<float> out);

/// fp32 to blocks of F32, BF16 or Q8_0; the size of `values` is a multiple of block_elements. Q8_0: scale = largest
/// |x| / 127, rounded to fp16 after the integers round(x / scale) are made, halves away from zero.
void quantize(GgmlType type, std::span<const float> values, std::span<std::byte> blocks);

}  // namespace megatron
