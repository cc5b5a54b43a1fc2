#include "tensor/dtype.h"

#include <string>

#include "base/check.h"
#include "base/error.h"

namespace megatron {

int64_t size_of(DType dtype) {
  switch (dtype) {
    case DType::kF64:
    case DType::kI64:
      return 8;
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kBF16:
    case DType::kF16:
      return 2;
    case DType::kU8:
      return 1;
  }
  fail_dtype("size_of", dtype);
}

std::string_view name_of(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return "fp64";
    case DType::kF32:
      return "fp32";
    case DType::kBF16:
      return "bf16";
    case DType::kF16:
      return "fp16";
    case DType::kI64:
      return "int64";
    case DType::kI32:
      return "int32";
    case DType::kU8:
      return "uint8";
  }
  return "?";
}

DType parse_dtype(std::string_view name) {
  for (DType dtype : {DType::kF64, DType::kF32, DType::kBF16, DType::kF16, DType::kI64, DType::kI32, DType::kU8}) {
    if (name_of(dtype) == name) return dtype;
  }
  throw UsageError("unknown element type '" + std::string(name) +
                   "': use fp64, fp32, bf16, fp16, int64, int32 or uint8");
}

void fail_dtype(const char* what, DType dtype) {
  fail_check(what, 0, "dtype", std::string(what) + " does not take " + std::string(name_of(dtype)));
}

Float16::Float16(float value) {
  uint32_t u;
  std::memcpy(&u, &value, sizeof u);
  const uint32_t sign = (u >> 16) & 0x8000u;
  const uint32_t magnitude = u & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;  // NaN
  } else if (magnitude >= 0x477ff000u) {
    half = 0x7c00u;  // rounds beyond 65504
  } else if (magnitude < 0x38800000u) {
    // Subnormal: adding 0.5 moves the mantissa to its place and lets the FPU round to nearest even.
    float shifted;
    const float half_value = 0.5f;
    std::memcpy(&shifted, &magnitude, sizeof shifted);
    shifted += half_value;
    uint32_t bits_of_sum;
    std::memcpy(&bits_of_sum, &shifted, sizeof bits_of_sum);
    half = bits_of_sum - 0x3f000000u;
  } else {
    const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    half = (rounded - 0x38000000u) >> 13;
  }
  bits = static_cast<uint16_t>(sign | half);
}

Float16::operator float() const {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu, mantissa = bits & 0x3ffu;
  uint32_t u;
  if (exponent == 0x1f) {
    u = sign | 0x7f800000u | (mantissa << 13);
  } else if (exponent != 0) {
    u = sign | ((exponent + 112) << 23) | (mantissa << 13);
  } else {
    const float value = static_cast<float>(mantissa) * 5.9604644775390625e-8f;  // 2^-24
    std::memcpy(&u, &value, sizeof u);
    u |= sign;
  }
  float result;
  std::memcpy(&result, &u, sizeof result);
  return result;
}

}  // namespace megatron
