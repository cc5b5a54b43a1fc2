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

/// The candidates that a draw chooses from, by rising id; `weights` are their probabilities but for a common factor.
class Candidates {
  /// Ties go to the lower id.
  auto likelier() const {
    return [this](TokenId a, TokenId b) {
      const double x = logits_[static_cast<size_t>(a)], y = logits_[static_cast<size_t>(b)];
      return x != y ? x > y : a < b;
    };
  }

 public:
  Candidates(const std::vector<double>& logits, double top, double temperature) : logits_(logits) {
    ids_.resize(logits.size());
    std::iota(ids_.begin(), ids_.end(), 0);
    weights_.reserve(logits.size());
    for (double logit : logits) weights_.push_back(std::exp((logit - top) / temperature));
  }

  void keep_most_likely(size_t k) {
    if (k >= ids_.size()) return;
    std::nth_element(ids_.begin(), ids_.begin() + static_cast<std::ptrdiff_t>(k), ids_.end(), likelier());
    ids_.resize(k);
    std::sort(ids_.begin(), ids_.end());
  }

  /// The smallest set of most likely ids that reaches the share `top_p`. Those below (1 - top_p) / count of the whole
  /// cannot be in it, even all together, so that only the others have to be sorted.
  void keep_nucleus(double top_p) {
    const double whole = total(), least = (1 - top_p) * whole / static_cast<double>(ids_.size());
    std::erase_if(ids_, [&](TokenId id) { return weight(id) < least; });
    std::sort(ids_.begin(), ids_.end(), likelier());
    double sum = 0;
    size_t count = 0;
    while (count < ids_.size() && sum < top_p * whole) sum += weight(ids_[count++]);
    ids_.resize(std::max<size_t>(count, 1));
    std::sort(ids_.begin(), ids_.end());
  }

  /// `uniform` in (0, 1).
  TokenId draw(double uniform) const {
    double target = uniform * total();
    for (TokenId id : ids_) {
      target -= weight(id);
      if (target <= 0) return id;
    }
    return ids_.back();
  }

 private:
  double weight(TokenId id) const { return weights_[static_cast<size_t>(id)]; }
  double total() const {
    double sum = 0;
    for (TokenId id : ids_) sum += weight(id);
    return sum;
  }
  const std::vector<double>& logits_;
  std::vector<TokenId> ids_;
  std::vector<double> weights_;
};

}  // namespace

TokenId sample(std::span<const double> given, const std::vector<TokenId>& context, const SamplingOptions& o,
               int64_t sequence) {
  std::vector<double> logits(given.begin(), given.end());
  MEGATRON_CHECK(!logits.empty(), "no logits");
  if (o.repetition_penalty != 1.0) penalize(logits, context, o.repetition_penalty);
  const auto greedy = std::max_element(logits.begin(), logits.end());
  const bool sound = std::all_of(logits.begin(), logits.end(), [](double logit) { return std::isfinite(logit); });
  if (!sound) throw DataError(kLogitsNotFinite);
  if (o.temperature == 0 || o.top_k == 1) return static_cast<TokenId>(greedy - logits.begin());

  Candidates candidates(logits, *greedy, o.temperature);
  if (o.top_k > 0) candidates.keep_most_likely(static_cast<size_t>(o.top_k));
  if (o.top_p > 0 && o.top_p < 1) candidates.keep_nucleus(o.top_p);
  const uint64_t key = philox_key(o.seed, hash_name("sampling") + static_cast<uint64_t>(sequence));
  return candidates.draw(philox_uniform(key, static_cast<uint64_t>(context.size())));
}

}  // namespace megatron
