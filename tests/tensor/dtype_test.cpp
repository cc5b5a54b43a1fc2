#include "tensor/dtype.h"

#include <cmath>
#include <limits>
#include <random>

#include "base/error.h"
#include "tests/catch.h"

using namespace megatron;

namespace {

float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

Float16 half(uint16_t bits) {
  Float16 h;
  h.bits = bits;
  return h;
}

BFloat16 brain(uint16_t bits) {
  BFloat16 b;
  b.bits = bits;
  return b;
}

/// The value of IEEE bits by its definition: sign, exponent of `exponent_bits`, mantissa of `mantissa_bits`.
double value_of(uint32_t bits, int exponent_bits, int mantissa_bits) {
  const int exponent = static_cast<int>((bits >> mantissa_bits) & ((1u << exponent_bits) - 1));
  const double mantissa = bits & ((1u << mantissa_bits) - 1);
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const double sign = (bits >> (exponent_bits + mantissa_bits)) != 0 ? -1 : 1;
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp(mantissa + std::ldexp(1.0, mantissa_bits), exponent - bias - mantissa_bits);
}

bool finite(uint32_t bits, int exponent_bits, int mantissa_bits) {
  const uint32_t all = (1u << exponent_bits) - 1;
  return ((bits >> mantissa_bits) & all) != all;
}

/// Checks rounding to nearest even of values between every pair of neighbours of a 16-bit type.
template <typename T, typename Make>
int64_t wrong_roundings(int exponent_bits, int mantissa_bits, Make make) {
  int64_t wrong = 0;
  const auto largest = static_cast<uint16_t>((((1u << exponent_bits) - 1) << mantissa_bits) - 1);
  for (uint16_t bits = 0; bits < largest; ++bits) {
    const double low = value_of(bits, exponent_bits, mantissa_bits),
                 high = value_of(bits + 1u, exponent_bits, mantissa_bits);
    const auto middle = static_cast<float>((low + high) / 2);  // exact in fp32, save among bf16's subnormals' last bits
    const uint16_t even = bits % 2 == 0 ? bits : static_cast<uint16_t>(bits + 1);
    const auto sign = static_cast<uint16_t>(0x8000u);
    wrong += make(middle).bits != even;
    wrong += make(-middle).bits != (even | sign);
    wrong += make(std::nextafter(middle, 0.0f)).bits != bits;
    wrong += make(std::nextafter(middle, std::numeric_limits<float>::infinity())).bits != bits + 1;
  }
  return wrong;
}

}  // namespace

TEST_CASE("every fp16 value survives fp32 and has the value of its bits") {
  for (uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const auto value = static_cast<float>(half(static_cast<uint16_t>(bits)));
    const uint16_t back = Float16(value).bits;
    if (finite(bits, 5, 10)) {
      REQUIRE(static_cast<double>(value) == value_of(bits, 5, 10));
      REQUIRE(back == bits);
    } else if ((bits & 0x3ffu) == 0) {
      REQUIRE(std::isinf(value));
      REQUIRE(back == bits);
    } else {
      REQUIRE(std::isnan(value));
      REQUIRE(std::isnan(static_cast<float>(half(back))));
      REQUIRE((back & 0x8000u) == (bits & 0x8000u));
    }
  }
}

TEST_CASE("every bf16 value survives fp32 and has the value of its bits") {
  for (uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const auto value = static_cast<float>(brain(static_cast<uint16_t>(bits)));
    const uint16_t back = BFloat16(value).bits;
    if (finite(bits, 8, 7)) {
      REQUIRE(static_cast<double>(value) == value_of(bits, 8, 7));
      REQUIRE(back == bits);
    } else if ((bits & 0x7fu) == 0) {
      REQUIRE(std::isinf(value));
      REQUIRE(back == bits);
    } else {
      REQUIRE(std::isnan(static_cast<float>(brain(back))));
    }
  }
}

TEST_CASE("fp32 to fp16 and bf16 rounds to nearest even, subnormals included") {
  CHECK(wrong_roundings<Float16>(5, 10, [](float f) { return Float16(f); }) == 0);
  CHECK(wrong_roundings<BFloat16>(8, 7, [](float f) { return BFloat16(f); }) == 0);
}

TEST_CASE("the edges of fp16") {
  CHECK(Float16(65504.0f).bits == 0x7bff);
  CHECK(Float16(65519.996f).bits == 0x7bff);
  CHECK(Float16(65520.0f).bits == 0x7c00);  // the tie goes to the even neighbour: infinity
  CHECK(Float16(-1e30f).bits == 0xfc00);
  CHECK(Float16(std::numeric_limits<float>::infinity()).bits == 0x7c00);
  CHECK(Float16(std::ldexp(1.0f, -24)).bits == 1);
  CHECK(Float16(std::ldexp(1.0f, -25)).bits == 0);  // tie between 0 and the smallest: even
  CHECK(Float16(std::nextafter(std::ldexp(1.0f, -25), 1.0f)).bits == 1);
  CHECK(Float16(-0.0f).bits == 0x8000);
  CHECK(Float16(std::numeric_limits<float>::denorm_min()).bits == 0);
  CHECK((Float16(std::nanf("")).bits & 0x7fff) > 0x7c00);
}

TEST_CASE("the edges of bf16") {
  CHECK(BFloat16(std::numeric_limits<float>::max()).bits == 0x7f80);
  CHECK(BFloat16(from_bits(0x7f7f7fff)).bits == 0x7f7f);
  CHECK(BFloat16(-std::numeric_limits<float>::infinity()).bits == 0xff80);
  CHECK(std::isnan(static_cast<float>(BFloat16(from_bits(0x7f800001)))));  // a NaN whose payload lies in the lost bits
  CHECK(std::isnan(static_cast<float>(BFloat16(from_bits(0xffffffff)))));
  CHECK(BFloat16(-0.0f).bits == 0x8000);
  CHECK(BFloat16(1.0).bits == 0x3f80);
}

TEST_CASE("names and sizes of element types") {
  for (DType d : {DType::kF64, DType::kF32, DType::kBF16, DType::kF16, DType::kI64, DType::kI32, DType::kU8}) {
    CHECK(parse_dtype(name_of(d)) == d);
  }
  CHECK(size_of(DType::kF64) == 8);
  CHECK(size_of(DType::kBF16) == 2);
  CHECK(size_of(DType::kI32) == 4);
  CHECK(size_of(DType::kU8) == 1);
  CHECK(is_floating(DType::kF16));
  CHECK(!is_floating(DType::kI64));
  CHECK(accumulation_dtype(DType::kF64) == DType::kF64);
  CHECK(accumulation_dtype(DType::kBF16) == DType::kF32);
  CHECK_THROWS_AS(parse_dtype("float"), UsageError);
  CHECK_THROWS_AS(dispatch_floating("rmsnorm", DType::kI32, [](auto) {}), InternalError);
  CHECK(dispatch_floating("rmsnorm", DType::kBF16, [](auto tag) { return sizeof(tag); }) == 2);
}
