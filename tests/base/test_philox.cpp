#include <cmath>
#include <cstdint>
#include <set>

#include "base/philox.h"
#include "base/strings.h"
#include "tests/catch.h"

using namespace megatron;

namespace {

void check_words(const Philox4& got, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  CHECK(got.v[0] == a);
  CHECK(got.v[1] == b);
  CHECK(got.v[2] == c);
  CHECK(got.v[3] == d);
}

}  // namespace

TEST_CASE("philox gives the known answers of Random123 for philox4x32-10") {
  check_words(philox(0, 0, 0, 0, 0), 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8);
  const uint32_t ones = ~uint32_t{0};
  check_words(philox(~uint64_t{0}, ones, ones, ones, ones), 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd);
  // Key and counter are digits of pi.
  check_words(philox(0x299f31d0a4093822u, 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344), 0xd16cfe09, 0x94fdcceb,
              0x5001e420, 0x24126ea1);
}

TEST_CASE("philox keys are mixed by the finaliser of splitmix64") {
  CHECK(philox_key(0, 0) == 0xe220a8397b1dcdafu);
  CHECK(philox_key(0, 1234567) == 6457827717110365317u);
  std::set<uint64_t> keys;
  for (uint64_t seed = 0; seed < 30; ++seed) {
    for (const char* name : {"a", "b", "decoder.layers.0", "decoder.layers.1"}) {
      keys.insert(philox_key(seed, hash_name(name)));
    }
  }
  CHECK(keys.size() == 120);
}

TEST_CASE("uniform numbers lie strictly between 0 and 1 and have the right moments") {
  CHECK(uniform_double(0) > 0.0);
  CHECK(uniform_double(~uint32_t{0}) < 1.0);
  const int count = 100000;
  double sum = 0, squares = 0;
  for (int i = 0; i < count; ++i) {
    const double u = philox_uniform(42, static_cast<uint64_t>(i));
    REQUIRE((u > 0 && u < 1));
    sum += u;
    squares += u * u;
  }
  CHECK(sum / count == Approx(0.5).margin(0.004));
  CHECK(squares / count == Approx(1.0 / 3).margin(0.004));
}

TEST_CASE("normal numbers have the right moments, tails and no correlation between neighbours") {
  const int count = 100000;
  double sum = 0, squares = 0, fourth = 0, neighbours = 0, last = 0;
  int beyond_two = 0;
  for (int i = 0; i < count; ++i) {
    const double x = philox_normal(7, static_cast<uint64_t>(i));
    REQUIRE(std::isfinite(x));
    sum += x;
    squares += x * x;
    fourth += x * x * x * x;
    neighbours += x * last;
    beyond_two += std::abs(x) > 2;
    last = x;
  }
  CHECK(sum / count == Approx(0).margin(0.015));
  CHECK(squares / count == Approx(1).margin(0.02));
  CHECK(fourth / count == Approx(3).margin(0.15));
  CHECK(neighbours / count == Approx(0).margin(0.015));
  CHECK(beyond_two / static_cast<double>(count) == Approx(0.0455).margin(0.003));
}

TEST_CASE("a number depends on its key and index alone") {
  CHECK(philox_normal(7, 5) == philox_normal(7, 5));
  CHECK(philox_normal(7, 5) != philox_normal(7, 4));
  CHECK(philox_normal(7, 5) != philox_normal(8, 5));
  CHECK(philox_uniform(7, uint64_t{1} << 40) != philox_uniform(7, 0));
}
