#include "kernels/dropout/dropout.h"

#include <cmath>
#include <vector>

#include "base/error.h"
#include "base/thread_pool.h"
#include "kernels/random/dropout_mask.h"
#include "tests/catch.h"

namespace megatron {
namespace {

TEST_CASE("eight groups at once are the groups one by one") {
  const DropoutToken token = dropout_token(dropout_key(7, hash_name("a.b")), int64_t{5} << 33, int64_t{3} << 34, 11);
  uint32_t words[32];
  dropout_words8(token, 40, words);
  for (uint32_t i = 0; i < 32; ++i) CHECK(words[i] == dropout_words(token, 40 + i / 4).v[i % 4]);
}

TEST_CASE("a mask does not depend on where it is cut") {
  const DropoutMask mask(0.3, 1, "site");
  std::vector<float> whole(301), parts(301);
  mask.fill(0, 301, 4, 9, 2, whole.data());
  for (int64_t begin = 0; begin < 301; begin += 37) {
    mask.fill(begin, std::min<int64_t>(37, 301 - begin), 4, 9, 2, parts.data() + begin);
  }
  CHECK(whole == parts);
}

TEST_CASE("masks keep the right share, and sites, steps, samples, positions and heads are independent") {
  constexpr int64_t kCount = 200000;
  const auto make = [](double p, uint64_t seed, const char* name, uint64_t head, int64_t position, int64_t sample,
                       int64_t step) {
    std::vector<float> values(kCount);
    DropoutMask(p, seed, name, head).fill(0, kCount, position, sample, step, values.data());
    return values;
  };
  for (const double p : {0.1, 0.5, 0.9}) {
    const std::vector<float> values = make(p, 1, "a", 0, 0, 0, 0);
    int64_t kept = 0;
    for (const float v : values) {
      CHECK_FALSE((v != 0 && v != static_cast<float>(1 / (1 - p))));
      kept += v != 0;
    }
    const double deviation = std::sqrt(kCount * p * (1 - p));
    CHECK(std::abs(static_cast<double>(kept) - kCount * (1 - p)) < 4 * deviation);
  }
  const std::vector<float> base = make(0.5, 1, "a", 0, 0, 0, 0);
  const std::vector<std::vector<float>> others = {make(0.5, 2, "a", 0, 0, 0, 0),
                                                  make(0.5, 1, "b", 0, 0, 0, 0),
                                                  make(0.5, 1, "a", 1, 0, 0, 0),
                                                  make(0.5, 1, "a", 0, 1, 0, 0),
                                                  make(0.5, 1, "a", 0, 0, 1, 0),
                                                  make(0.5, 1, "a", 0, 0, 0, 1),
                                                  make(0.5, 1, "a", 0, 0, int64_t{1} << 32, 0),
                                                  make(0.5, 1, "a", 0, 0, 0, int64_t{1} << 32)};
  for (const std::vector<float>& other : others) {
    int64_t equal = 0;
    for (size_t i = 0; i < base.size(); ++i) equal += base[i] == other[i];
    CHECK(std::abs(static_cast<double>(equal) - kCount / 2.0) < 4.5 * std::sqrt(kCount * 0.25));
  }
}

TEST_CASE("thresholds at the ends") {
  CHECK(dropout_threshold(0) == 0);
  CHECK(dropout_threshold(1.0 / 4294967296.0) == 1);
  CHECK(dropout_threshold(0.5) == 2147483648u);
}

/// The rows of the sharded run are the rows of the whole one.
TEST_CASE("a shard of the channels gets its part of the mask") {
  ThreadPool pool(2);
  const int64_t s = 3, b = 2, c = 10;
  std::vector<double> x(static_cast<size_t>(s * b * c), 1.0), y(x.size()), half(static_cast<size_t>(s * b * 5), 1.0),
      z(half.size());
  std::vector<int64_t> sample = {17, 4}, step = {6};
  std::vector<int32_t> position = {0, 0, 1, 1, 2, 2};
  DropoutArgs args;
  args.options = {0.5, 3, "site"};
  args.step = make_tensor(step.data(), DType::kI64, {});
  args.sample = make_tensor(sample.data(), DType::kI64, {b});
  args.position = make_tensor(position.data(), DType::kI32, {s, b});
  args.x = make_tensor(x.data(), DType::kF64, {s, b, c});
  args.y = make_tensor(y.data(), DType::kF64, {s, b, c});
  dropout_cpu(args, &pool);
  args.x = make_tensor(half.data(), DType::kF64, {s, b, 5});
  args.y = make_tensor(z.data(), DType::kF64, {s, b, 5});
  args.first_channel = 5;
  dropout_cpu(args, &pool);
  for (size_t t = 0; t < 6; ++t) {
    for (size_t i = 0; i < 5; ++i) CHECK(z[t * 5 + i] == y[t * 10 + 5 + i]);
  }
}

TEST_CASE("dropout refuses what it cannot do") {
  Program program;
  Trace t(program, true);
  const Value x = t.input("x", DType::kF32, {3, 2, 4}, t.replicated());
  CHECK(dropout(t, x, {}) == x);
  DropoutKey key;
  key.p = 0.5;
  CHECK_THROWS_AS(dropout(t, x, key), InternalError);
  key.p = 1.0;
  CHECK_THROWS_AS(dropout_add(t, x, {}, x, key), InternalError);
}

}  // namespace
}  // namespace megatron
