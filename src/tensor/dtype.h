// Element types, and the 16-bit storage types of the CPU.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

namespace megatron {

enum class DType : uint8_t { kF64, kF32, kBF16, kF16, kI64, kI32, kU8 };

/// Bytes of one element.
int64_t size_of(DType dtype);
/// "fp64", "fp32", "bf16", "fp16", "int64", "int32", "uint8".
std::string_view name_of(DType dtype);
/// Inverse of name_of; throws UsageError for an unknown name.
DType parse_dtype(std::string_view name);
constexpr bool is_floating(DType dtype) {
  return dtype <= DType::kF16;
}
/// The type in which sums over values of `dtype` are kept: fp64 for fp64, else fp32.
constexpr DType accumulation_dtype(DType dtype) {
  return dtype == DType::kF64 ? DType::kF64 : DType::kF32;
}

/// bfloat16 storage; conversion from float rounds to nearest even and keeps NaN.
struct BFloat16 {
  uint16_t bits = 0;
  BFloat16() = default;
  explicit BFloat16(float value) {
    uint32_t u;
    std::memcpy(&u, &value, sizeof u);
    if ((u & 0x7fffffffu) > 0x7f800000u) {
      bits = static_cast<uint16_t>((u >> 16) | 0x40u);
    } else {
      bits = static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
    }
  }
  explicit BFloat16(double value) : BFloat16(static_cast<float>(value)) {}
  operator float() const {
    const uint32_t u = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &u, sizeof value);
    return value;
  }
};

/// IEEE half storage; conversion from float rounds to nearest even, overflows to infinity.
struct Float16 {
  uint16_t bits = 0;
  Float16() = default;
  explicit Float16(float value);
  explicit Float16(double value) : Float16(static_cast<float>(value)) {}
  operator float() const;
};

template <typename T>
struct dtype_of;
template <>
struct dtype_of<double> {
  static constexpr DType value = DType::kF64;
  using Accumulator = double;
};
template <>
struct dtype_of<float> {
  static constexpr DType value = DType::kF32;
  using Accumulator = float;
};
template <>
struct dtype_of<BFloat16> {
  static constexpr DType value = DType::kBF16;
  using Accumulator = float;
};
template <>
struct dtype_of<Float16> {
  static constexpr DType value = DType::kF16;
  using Accumulator = float;
};

/// The type in which the CPU kernels compute: double for fp64, float for the others.
template <typename T>
using Accumulator = typename dtype_of<T>::Accumulator;

[[noreturn]] void fail_dtype(const char* what, DType dtype);

/// Calls body with a value of the element type of `dtype` (fp64, fp32, bf16 or fp16), for its type only:
/// `dispatch_floating("rmsnorm", x.dtype, [&](auto t) { using T = decltype(t); ... });`
template <typename Body>
decltype(auto) dispatch_floating(const char* what, DType dtype, Body&& body) {
  switch (dtype) {
    case DType::kF64:
      return body(double{});
    case DType::kF32:
      return body(float{});
    case DType::kBF16:
      return body(BFloat16{});
    case DType::kF16:
      return body(Float16{});
    default:
      fail_dtype(what, dtype);
  }
}

}  // namespace megatron
