#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/hash.h"
#include "base/strings.h"
#include "tests/catch.h"

using namespace megatron;

namespace {

struct Vector {
  size_t size;
  uint64_t plain, seeded;
};

/// Values of libxxhash 0.8.1 over the first `size` bytes of (i * i + 7 * i) mod 251, with seeds 0 and 2654435761.
const std::vector<Vector>& vectors() {
  static const std::vector<Vector> list = {
      {0, 0xef46db3751d8e999ull, 0xac75fda2929b17efull},   {1, 0xe934a84adb052768ull, 0x5014607643a9b4c3ull},
      {3, 0xbb3a592908a981a8ull, 0x225a549f1f732ccbull},   {4, 0x798a8b758de10b9cull, 0x45a11f51b4af778aull},
      {7, 0xc524fe6186d68234ull, 0xcafc06f3ff101345ull},   {8, 0x628b254fd17d4862ull, 0xf1d633e861c6201eull},
      {12, 0x043665c447d22a2aull, 0xee3f96598bfab158ull},  {31, 0x7d36fafd7e8f54d5ull, 0xd88e2acb9024b567ull},
      {32, 0x8ca809248427ab85ull, 0x81193d60e6a7b88full},  {33, 0x701316fef6f836d3ull, 0x7ddfd832f88edc79ull},
      {63, 0xabdc7bc152c8c7f4ull, 0x0c86ce7b733a84eeull},  {64, 0x134758ba0f580486ull, 0x885a84075bcf375aull},
      {100, 0x3553324796eea83aull, 0x8868cf46eb131ca3ull}, {255, 0x5715a18608b62ed9ull, 0xca4bf50b15b22c0eull},
      {256, 0xebe20f01b784e926ull, 0x2b6ba392da1c8419ull}, {300, 0xc59d56c2379579f4ull, 0xcd15f8ef066da17aull},
  };
  return list;
}

std::vector<std::byte> pattern(size_t size) {
  std::vector<std::byte> bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>((i * i + 7 * i) % 251);
  return bytes;
}

}  // namespace

TEST_CASE("xxh64 gives the values of the reference library at every branch of its length") {
  const auto bytes = pattern(300);
  for (const Vector& v : vectors()) {
    const auto part = std::span(bytes).first(v.size);
    CHECK(xxh64(part) == v.plain);
    CHECK(xxh64(part, 2654435761u) == v.seeded);
  }
  CHECK(hex64(xxh64("abc")) == "44bc2cf5ad770999");
}

TEST_CASE("xxh64 does not depend on how the bytes are cut") {
  const auto bytes = pattern(300);
  for (size_t step : {1, 3, 8, 31, 32, 33, 100}) {
    Xxh64 hash;
    for (size_t at = 0; at < bytes.size(); at += step) {
      hash.update(std::span(bytes).subspan(at, std::min(step, bytes.size() - at)));
      CHECK(hash.digest() == xxh64(std::span(bytes).first(std::min(at + step, bytes.size()))));
    }
  }
}

TEST_CASE("hexadecimal checksums have exactly one spelling") {
  CHECK(hex64(0) == "0000000000000000");
  CHECK(parse_hex64("44bc2cf5ad770999") == 0x44bc2cf5ad770999u);
  CHECK(parse_hex64(hex64(~uint64_t{0})) == ~uint64_t{0});
  for (const char* wrong : {"", "44bc2cf5ad77099", "44bc2cf5ad7709990", "44BC2CF5AD770999", "44bc2cf5ad77099g",
                            " 4bc2cf5ad770999", "0x44bc2cf5ad7709"}) {
    CHECK_FALSE(parse_hex64(wrong).has_value());
  }
}
