#include "checkpoint/quants.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "tensor/dtype.h"

namespace megatron {
namespace {

struct TypeInfo {
  GgmlType type;
  std::string_view name;
  int64_t elements, bytes;
};

constexpr std::array kTypes = {
    TypeInfo{GgmlType::kF32, "F32", 1, 4},       TypeInfo{GgmlType::kF16, "F16", 1, 2},
    TypeInfo{GgmlType::kBF16, "BF16", 1, 2},     TypeInfo{GgmlType::kQ4_0, "Q4_0", 32, 18},
    TypeInfo{GgmlType::kQ4_1, "Q4_1", 32, 20},   TypeInfo{GgmlType::kQ8_0, "Q8_0", 32, 34},
    TypeInfo{GgmlType::kQ4_K, "Q4_K", 256, 144}, TypeInfo{GgmlType::kQ6_K, "Q6_K", 256, 210},
};

const TypeInfo& info(GgmlType type) {
  return *std::find_if(kTypes.begin(), kTypes.end(), [&](const TypeInfo& t) { return t.type == type; });
}

template <typename T>
T load(const std::byte* place) {
  T value;
  std::memcpy(&value, place, sizeof value);
  return value;
}

uint8_t byte_at(const std::byte* block, int64_t i) {
  return std::to_integer<uint8_t>(block[i]);
}

/// [scale fp16][16 bytes]: low halves are elements 0..15, high ones 16..31; x = scale (q - 8).
void read_q4_0(const std::byte* block, float* out) {
  const float scale = load<Float16>(block);
  for (int64_t i = 0; i < 16; ++i) {
    const uint8_t q = byte_at(block, 2 + i);
    out[i] = scale * static_cast<float>((q & 15) - 8);
    out[i + 16] = scale * static_cast<float>((q >> 4) - 8);
  }
}

/// [scale fp16][minimum fp16][16 bytes]: x = scale q + minimum.
void read_q4_1(const std::byte* block, float* out) {
  const float scale = load<Float16>(block), minimum = load<Float16>(block + 2);
  for (int64_t i = 0; i < 16; ++i) {
    const uint8_t q = byte_at(block, 4 + i);
    out[i] = scale * static_cast<float>(q & 15) + minimum;
    out[i + 16] = scale * static_cast<float>(q >> 4) + minimum;
  }
}

/// [scale fp16][32 signed bytes].
void read_q8_0(const std::byte* block, float* out) {
  const float scale = load<Float16>(block);
  for (int64_t i = 0; i < 32; ++i) out[i] = scale * static_cast<float>(load<int8_t>(block + 2 + i));
}

/// [scale fp16][scale of minima fp16][12 bytes: 8 scales and 8 minima of 6 bits][128 bytes of 4-bit values]: sub-blocks
/// of 32, two of them (low and high halves) in each 32 bytes; x = scale s_j q - minscale m_j.
void read_q4_k(const std::byte* block, float* out) {
  const float scale = load<Float16>(block), minimum = load<Float16>(block + 2);
  const std::byte* packed = block + 4;
  for (int64_t j = 0; j < 8; ++j) {
    int s = 0, m = 0;
    if (j < 4) {
      s = byte_at(packed, j) & 63;
      m = byte_at(packed, j + 4) & 63;
    } else {  // low four bits together, high two in the top of the first eight bytes
      s = (byte_at(packed, j + 4) & 15) | ((byte_at(packed, j - 4) >> 6) << 4);
      m = (byte_at(packed, j + 4) >> 4) | ((byte_at(packed, j) >> 6) << 4);
    }
    const float step = scale * static_cast<float>(s), least = minimum * static_cast<float>(m);
    const std::byte* values = block + 16 + (j / 2) * 32;
    for (int64_t i = 0; i < 32; ++i) {
      const int q = j % 2 == 0 ? byte_at(values, i) & 15 : byte_at(values, i) >> 4;
      out[j * 32 + i] = step * static_cast<float>(q) - least;
    }
  }
}

/// [128 bytes: low 4 bits][64 bytes: high 2 bits][16 signed scales][scale fp16]: halves of 128 elements, in each of
/// which element 32 k + i has its low bits in byte 32 (k mod 2) + i, half k / 2, its high bits in byte i at 2 k; x =
/// scale s (q - 32), one s for 16 elements.
void read_q6_k(const std::byte* block, float* out) {
  const float scale = load<Float16>(block + 208);
  for (int64_t half = 0; half < 2; ++half) {
    const std::byte *low = block + half * 64, *high = block + 128 + half * 32, *scales = block + 192 + half * 8;
    for (int64_t k = 0; k < 4; ++k) {
      for (int64_t i = 0; i < 32; ++i) {
        const uint8_t l = byte_at(low, 32 * (k % 2) + i);
        const int q = (k < 2 ? l & 15 : l >> 4) | (((byte_at(high, i) >> (2 * k)) & 3) << 4);
        const float step = scale * static_cast<float>(load<int8_t>(scales + 2 * k + i / 16));
        out[half * 128 + k * 32 + i] = step * static_cast<float>(q - 32);
      }
    }
  }
}

void write_q8_0(const float* values, std::byte* block) {
  float largest = 0;
  for (int64_t i = 0; i < 32; ++i) largest = std::max(largest, std::abs(values[i]));
  const float scale = largest / 127.0F, inverse = scale == 0 ? 0.0F : 1.0F / scale;
  const Float16 stored(scale);
  std::memcpy(block, &stored, sizeof stored);
  for (int64_t i = 0; i < 32; ++i) {
    const auto q = static_cast<int8_t>(std::clamp(std::round(values[i] * inverse), -127.0F, 127.0F));
    std::memcpy(block + 2 + i, &q, sizeof q);
  }
}

void read_block(GgmlType type, const std::byte* block, float* out) {
  switch (type) {
    case GgmlType::kF32:
      *out = load<float>(block);
      return;
    case GgmlType::kF16:
      *out = load<Float16>(block);
      return;
    case GgmlType::kBF16:
      *out = load<BFloat16>(block);
      return;
    case GgmlType::kQ4_0:
      return read_q4_0(block, out);
    case GgmlType::kQ4_1:
      return read_q4_1(block, out);
    case GgmlType::kQ8_0:
      return read_q8_0(block, out);
    case GgmlType::kQ4_K:
      return read_q4_k(block, out);
    case GgmlType::kQ6_K:
      return read_q6_k(block, out);
  }
}

}  // namespace

std::string_view name_of(GgmlType type) {
  return info(type).name;
}

std::optional<GgmlType> ggml_type(uint32_t number) {
  for (const TypeInfo& t : kTypes) {
    if (static_cast<uint32_t>(t.type) == number) return t.type;
  }
  return std::nullopt;
}

int64_t block_elements(GgmlType type) {
  return info(type).elements;
}

int64_t block_bytes(GgmlType type) {
  return info(type).bytes;
}

void dequantize(GgmlType type, std::span<const std::byte> blocks, std::span<float> out) {
  const int64_t elements = block_elements(type), bytes = block_bytes(type), count = std::ssize(blocks) / bytes;
  MEGATRON_CHECK(count * bytes == std::ssize(blocks) && count * elements == std::ssize(out), "whole blocks");
  for (int64_t i = 0; i < count; ++i) read_block(type, blocks.data() + i * bytes, out.data() + i * elements);
}

void quantize(GgmlType type, std::span<const float> values, std::span<std::byte> blocks) {
  const int64_t elements = block_elements(type), bytes = block_bytes(type), count = std::ssize(values) / elements;
  MEGATRON_CHECK(count * elements == std::ssize(values) && count * bytes == std::ssize(blocks), "whole blocks");
  for (int64_t i = 0; i < count; ++i) {
    const float* source = values.data() + i * elements;
    std::byte* target = blocks.data() + i * bytes;
    if (type == GgmlType::kQ8_0) {
      write_q8_0(source, target);
    } else if (type == GgmlType::kBF16) {
      const BFloat16 value(*source);
      std::memcpy(target, &value, sizeof value);
    } else {
      MEGATRON_CHECK(type == GgmlType::kF32, "this type is not written");
      std::memcpy(target, source, sizeof(float));
    }
  }
}

}  // namespace megatron
