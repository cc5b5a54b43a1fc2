// From logits to tokens: each filter alone, their order, and the drawn distribution.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/philox.h"
#include "inference/sampler.h"
#include "tests/catch.h"

namespace megatron {
namespace {

const std::vector<double> kLogits = {0.5, 3.0, -1.0, 2.0, 1.0};

template <typename Failure, typename Action>
std::string message_of(Action action) {
  try {
    action();
  } catch (const Failure& error) {
    return error.what();
  }
  return "nothing was thrown";
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

bool refuses(const SamplingOptions& options, const std::string& name) {
  return has(message_of<UsageError>([&] { check(options); }), name);
}

/// Counts of `draws` draws; each has another length of context, as in a text.
std::vector<int64_t> draw(const std::vector<double>& logits, const SamplingOptions& options, int64_t draws) {
  std::vector<int64_t> counts(logits.size());
  std::vector<TokenId> context;
  for (int64_t i = 0; i < draws; ++i) {
    const TokenId id = sample(logits, context, options, 0);
    ++counts[static_cast<size_t>(id)];
    context.push_back(0);
  }
  return counts;
}

std::vector<double> softmax(const std::vector<double>& logits, double temperature) {
  std::vector<double> p;
  for (double logit : logits) p.push_back(std::exp(logit / temperature));
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& x : p) x /= sum;
  return p;
}

/// Sum of (seen - expected)^2 / expected over the tokens that can come; the others must not have come.
double chi_square(const std::vector<int64_t>& counts, const std::vector<double>& probabilities) {
  const auto draws = static_cast<double>(std::accumulate(counts.begin(), counts.end(), int64_t{0}));
  double sum = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    const double expected = draws * probabilities[i];
    if (expected == 0) {
      CHECK(counts[i] == 0);
      continue;
    }
    const double difference = static_cast<double>(counts[i]) - expected;
    sum += difference * difference / expected;
  }
  return sum;
}

std::set<TokenId> drawn(const std::vector<double>& logits, const SamplingOptions& options) {
  std::set<TokenId> ids;
  const std::vector<int64_t> counts = draw(logits, options, 2000);
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] > 0) ids.insert(static_cast<TokenId>(i));
  }
  return ids;
}

constexpr double kChi4 = 18.47;  // 0.999 quantile, 4 degrees of freedom
constexpr double kChi2 = 13.82;  // 2 degrees

TEST_CASE("greedy takes the most likely token, the lower id of equals") {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    CHECK(sample(kLogits, {}, {.temperature = 0, .seed = seed}, 0) == 1);
    CHECK(sample(kLogits, {}, {.temperature = 5, .top_k = 1, .seed = seed}, 0) == 1);
  }
  CHECK(sample(std::vector<double>{1, 2, 2, 2}, {}, {.temperature = 0}, 0) == 1);
  CHECK(sample(std::vector<double>{-7.0}, {}, {}, 0) == 0);
}

TEST_CASE("draws have the distribution of the softmax") {
  for (const double temperature : {0.7, 1.0, 2.5}) {
    const SamplingOptions options{.temperature = temperature, .seed = 11};
    const std::vector<int64_t> counts = draw(kLogits, options, 20000);
    INFO("temperature " << temperature);
    CHECK(chi_square(counts, softmax(kLogits, temperature)) < kChi4);
    CHECK(chi_square(counts, softmax(kLogits, temperature * 1.1)) > kChi4);  // the test can tell
  }
}

TEST_CASE("sequences and seeds draw independently, the same call draws the same") {
  std::vector<int64_t> counts(kLogits.size());
  for (int64_t sequence = 0; sequence < 20000; ++sequence) {
    ++counts[static_cast<size_t>(sample(kLogits, {1, 2, 3}, {.seed = 5}, sequence))];
  }
  CHECK(chi_square(counts, softmax(kLogits, 1.0)) < kChi4);
  std::fill(counts.begin(), counts.end(), 0);
  for (uint64_t seed = 0; seed < 20000; ++seed) {
    const TokenId id = sample(kLogits, {1, 2, 3}, {.seed = seed}, 3);
    ++counts[static_cast<size_t>(id)];
    if (seed % 1000 == 0) CHECK(sample(kLogits, {4, 4, 4}, {.seed = seed}, 3) == id);
  }
  CHECK(chi_square(counts, softmax(kLogits, 1.0)) < kChi4);
}

TEST_CASE("top-k keeps the k most likely tokens") {
  CHECK(drawn(kLogits, {.temperature = 4, .top_k = 2, .seed = 1}) == std::set<TokenId>{1, 3});
  CHECK(drawn(kLogits, {.temperature = 4, .top_k = 3, .seed = 1}) == std::set<TokenId>{1, 3, 4});
  CHECK(drawn(kLogits, {.temperature = 4, .top_k = 99, .seed = 1}).size() == 5);
  CHECK(drawn(kLogits, {.temperature = 4, .top_k = 0, .seed = 1}).size() == 5);
  // Of equals the lower ids stay.
  CHECK(drawn({1, 2, 2, 2}, {.top_k = 2, .seed = 1}) == std::set<TokenId>{1, 2});
  std::vector<double> expected = softmax({3.0, 2.0, 1.0}, 1.0);
  expected = {0, expected[0], 0, expected[1], expected[2]};
  CHECK(chi_square(draw(kLogits, {.top_k = 3, .seed = 2}, 20000), expected) < kChi2);
}

TEST_CASE("top-p keeps the smallest set that reaches p, computed after the temperature") {
  // Probabilities at temperature 1: 0.610 (1), 0.224 (3), 0.083 (4), 0.050 (0), 0.011 (2).
  CHECK(drawn(kLogits, {.top_p = 0.5, .seed = 1}) == std::set<TokenId>{1});
  CHECK(drawn(kLogits, {.top_p = 0.7, .seed = 1}) == std::set<TokenId>{1, 3});
  CHECK(drawn(kLogits, {.top_p = 0.9, .seed = 1}) == std::set<TokenId>{1, 3, 4});
  CHECK(drawn(kLogits, {.top_p = 1.0, .seed = 1}).size() == 5);
  CHECK(drawn(kLogits, {.top_p = 0.0, .seed = 1}).size() == 5);
  CHECK(drawn(kLogits, {.temperature = 0.3, .top_p = 0.7, .seed = 1}) == std::set<TokenId>{1});
  CHECK(drawn(kLogits, {.temperature = 100, .top_p = 0.7, .seed = 1}).size() == 4);
  CHECK(drawn({0, 0, 0, 0}, {.top_p = 0.5, .seed = 1}) == std::set<TokenId>{0, 1});  // reaches it exactly
  // Top-p counts within what top-k has left: 0.731 and 0.269 of two.
  CHECK(drawn(kLogits, {.top_k = 2, .top_p = 0.72, .seed = 1}) == std::set<TokenId>{1});
}

TEST_CASE("the nucleus of a large vocabulary is that of sorting all of it") {
  for (double scale : {0.0, 0.5, 3.0}) {  // flat, middling, peaked
    std::vector<double> logits;
    for (uint64_t i = 0; i < 5000; ++i) logits.push_back(scale * philox_normal(9, i));
    const std::vector<double> probabilities = softmax(logits, 1.0);
    std::vector<TokenId> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](TokenId a, TokenId b) {
      return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
    });
    std::set<TokenId> kept;
    double sum = 0;
    for (size_t i = 0; sum < 0.3; ++i) {
      kept.insert(order[i]);
      sum += probabilities[static_cast<size_t>(order[i])];
    }
    const std::set<TokenId> seen = drawn(logits, {.top_p = 0.3, .seed = 4});
    CHECK(std::includes(kept.begin(), kept.end(), seen.begin(), seen.end()));
    CHECK(seen.size() > kept.size() / 4);  // of 2000 draws
  }
}

TEST_CASE("the repetition penalty counts each token once and moves both signs down") {
  const SamplingOptions greedy{.temperature = 0, .repetition_penalty = 2.0};
  CHECK(sample(std::vector<double>{3, 2}, {}, greedy, 0) == 0);
  CHECK(sample(std::vector<double>{3, 2}, {0}, greedy, 0) == 1);        // 1.5 against 2
  CHECK(sample(std::vector<double>{3, 1}, {0, 0, 0}, greedy, 0) == 0);  // 1.5 against 1: once, not thrice
  CHECK(sample(std::vector<double>{-1, -1.5}, {0}, greedy, 0) == 1);    // -2 against -1.5
  const std::vector<double> expected = softmax({1.5, 2.0, -2.0}, 1.0);
  std::vector<int64_t> counts(3);
  std::vector<TokenId> context = {0, 2};
  for (int i = 0; i < 4000; ++i) {
    ++counts[static_cast<size_t>(sample(std::vector<double>{3, 2, -1}, context, {.repetition_penalty = 2.0}, 0))];
    context.push_back(i % 2 * 2);
  }
  CHECK(chi_square(counts, expected) < kChi2);
}

TEST_CASE("a tiny temperature and large logits do not overflow") {
  CHECK(drawn({1000, 1001, -1e30}, {.temperature = 1e-6, .seed = 1}) == std::set<TokenId>{1});
  CHECK(drawn({1e300, 1e300, 0}, {.seed = 1}) == std::set<TokenId>{0, 1});
}

TEST_CASE("logits that are not finite are refused wherever they stand") {
  const double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  for (const std::vector<double>& logits :
       {std::vector<double>{nan, 1, 2}, {1, nan, 2}, {1, 2, nan}, {1, infinity, 2}, {-infinity, -infinity, 0}}) {
    CHECK(has(message_of<DataError>([&] { sample(logits, {}, {}, 0); }), "not finite"));
    CHECK(has(message_of<DataError>([&] { sample(logits, {}, {.temperature = 0}, 0); }), "not finite"));
  }
}

TEST_CASE("sampling options out of range are refused by name") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK_NOTHROW(check(SamplingOptions{}));
  CHECK(refuses({.temperature = -0.1}, "--temperature"));
  CHECK(refuses({.temperature = nan}, "--temperature"));
  CHECK(refuses({.top_k = -1}, "--top-k"));
  CHECK(refuses({.top_p = 1.1}, "--top-p"));
  CHECK(refuses({.top_p = nan}, "--top-p"));
  CHECK(refuses({.repetition_penalty = 0}, "--repetition-penalty"));
  CHECK(refuses({.repetition_penalty = nan}, "--repetition-penalty"));
}

}  // namespace
}  // namespace megatron
