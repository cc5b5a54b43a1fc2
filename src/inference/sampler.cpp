#include "inference/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"
#include "base/error.h"
#include "base/philox.h"
#include "base/strings.h"

namespace megatron {

void check(const SamplingOptions& o) {
  if (!(o.temperature >= 0)) throw UsageError(str_cat("--temperature ", o.temperature, ": give 0 (greedy) or more"));
  if (o.top_k < 0) throw UsageError(str_cat("--top-k ", o.top_k, ": give 0 (off) or more"));
  if (!(o.top_p >= 0 && o.top_p <= 1))
    throw UsageError(str_cat("--top-p ", o.top_p, ": give a probability from 0 to 1"));
  if (!(o.repetition_penalty > 0))
    throw UsageError(str_cat("--repetition-penalty ", o.repetition_penalty, ": give more than 0"));
}

namespace {

void penalize(std::vector<double>& logits, const std::vector<TokenId>& context, double penalty) {
  std::vector<TokenId> seen = context;
  std::sort(seen.begin(), seen.end());
  seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
  for (TokenId id : seen) {
    double& logit = logits[static_cast<size_t>(id)];
    logit = logit > 0 ? logit / penalty : logit * penalty;
  }
}

/// Number of leading entries of `order` (sorted by falling probability) that top-p keeps.
size_t nucleus(const std::vector<double>& probabilities, double top_p) {
  double sum = 0;
  for (size_t i = 0; i < probabilities.size(); ++i) {
    sum += probabilities[i];
    if (sum >= top_p) return i + 1;
  }
  return probabilities.size();
}

}  // namespace

TokenId sample(std::span<const double> given, const std::vector<TokenId>& context, const SamplingOptions& o,
               int64_t sequence) {
  std::vector<double> logits(given.begin(), given.end());
  MEGATRON_CHECK(!logits.empty(), "no logits");
  if (o.repetition_penalty != 1.0) penalize(logits, context, o.repetition_penalty);
  const auto greedy = std::max_element(logits.begin(), logits.end());
  const bool sound = std::all_of(logits.begin(), logits.end(), [](double logit) { return std::isfinite(logit); });
  if (!sound) throw DataError("the model gave logits that are not finite: its weights are damaged or diverged");
  if (o.temperature == 0 || o.top_k == 1) return static_cast<TokenId>(greedy - logits.begin());

  std::vector<TokenId> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const size_t k = o.top_k > 0 ? std::min<size_t>(static_cast<size_t>(o.top_k), order.size()) : order.size();
  const auto likelier = [&](TokenId a, TokenId b) {
    const double x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  };
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(k), order.end(), likelier);
  order.resize(k);
  const double top = logits[static_cast<size_t>(order[0])];
  std::vector<double> probabilities;
  double sum = 0;
  for (TokenId id : order) {
    probabilities.push_back(std::exp((logits[static_cast<size_t>(id)] - top) / o.temperature));
    sum += probabilities.back();
  }
  for (double& p : probabilities) p /= sum;
  if (o.top_p > 0 && o.top_p < 1) probabilities.resize(nucleus(probabilities, o.top_p));
  const double kept = std::accumulate(probabilities.begin(), probabilities.end(), 0.0);
  const uint64_t key = philox_key(o.seed, hash_name("sampling") + static_cast<uint64_t>(sequence));
  double target = kept * philox_uniform(key, static_cast<uint64_t>(context.size()));
  for (size_t i = 0; i < probabilities.size(); ++i) {
    target -= probabilities[i];
    if (target <= 0) return order[i];
  }
  return order[probabilities.size() - 1];
}

}  // namespace megatron
