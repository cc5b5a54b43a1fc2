// Generation with a cache gives what attention over all tokens gives.
#include "kernels/kv_cache/kv_cache.h"

#include "base/error.h"
#include "direct_run.h"
#include "tests/catch.h"

namespace megatron {
namespace {

constexpr int64_t kTokens = 11, kBatch = 2, kGroups = 2, kHeads = 3, kWidth = 4, kCapacity = 16;

/// Rows [first, first + count) of a sequence-first array.
Numbers rows(const Numbers& x, int64_t first, int64_t count) {
  const int64_t row = static_cast<int64_t>(x.size()) / kTokens;
  return {x.begin() + first * row, x.begin() + (first + count) * row};
}

TEST_CASE("prompt and then token by token over the cache equals attention over all", "[kv_cache]") {
  const Numbers q = random_numbers(kTokens * kBatch * kGroups * kHeads * kWidth, 1);
  const Numbers k = random_numbers(kTokens * kBatch * kGroups * kWidth, 2),
                v = random_numbers(static_cast<int64_t>(k.size()), 3);
  for (const int64_t window : {int64_t{-1}, int64_t{3}}) {
    for (const auto& [dtype, tolerance] :
         {std::pair{DType::kF64, 1e-14}, std::pair{DType::kF32, 1e-6}, std::pair{DType::kBF16, 1e-2}}) {
      AttentionOptions options;
      options.softmax_scale = 0.5;
      options.window_left = window;
      const Dims kv = {kTokens, kBatch, kGroups, kWidth};
      const Numbers expected = run_kind(*attention_kind(options, {kTokens, kTokens, kHeads}),
                                        {make_owned(dtype, {kTokens, kBatch, kGroups, kHeads, kWidth}, q),
                                         make_owned(dtype, kv, k),
                                         make_owned(dtype, kv, v),
                                         {},
                                         {},
                                         {},
                                         {}})[0]
                                   .numbers();
      const Dims cache = {kBatch, kCapacity, kGroups, kWidth};
      const Owned keys = nan_tensor(dtype, cache, contiguous_strides(cache), cache.numel());
      const Owned values = nan_tensor(dtype, cache, contiguous_strides(cache), cache.numel());
      Numbers got;
      for (int64_t first = 0, count = 5; first < kTokens; first += count, count = 1) {
        Numbers position;
        for (int64_t i = 0; i < count * kBatch; ++i) position.push_back(static_cast<double>(first + i / kBatch));
        const Owned positions = make_owned(DType::kI32, {count, kBatch}, position);
        const Dims part = {count, kBatch, kGroups, kWidth};
        run_kind(*kv_cache_append_kind(),
                 {keys, make_part(dtype, part, 2, 1, kGroups + 2, rows(k, first, count)), positions});
        run_kind(*kv_cache_append_kind(), {values, make_owned(dtype, part, rows(v, first, count)), positions});
        const Owned queries = make_owned(dtype, {count, kBatch, kGroups, kHeads, kWidth}, rows(q, first, count));
        const Numbers out = run_kind(*attention_cached_kind(options), {queries, keys, values, positions})[0].numbers();
        got.insert(got.end(), out.begin(), out.end());
      }
      REQUIRE(relative_error(got, expected) < tolerance);
    }
  }
}

TEST_CASE("tokens at negative positions leave no trace", "[kv_cache]") {
  const Dims cache = {1, 4, 1, 2};
  const Owned keys = make_owned(DType::kF32, cache, Numbers(8, 7.0)),
              values = make_owned(DType::kF32, cache, Numbers(8, 7.0));
  const Owned positions = make_owned(DType::kI32, {3, 1}, {-1, 0, 1});
  run_kind(*kv_cache_append_kind(), {keys, make_owned(DType::kF32, {3, 1, 1, 2}, {1, 2, 3, 4, 5, 6}), positions});
  REQUIRE(keys.numbers() == Numbers{3, 4, 5, 6, 7, 7, 7, 7});
  AttentionOptions options;
  const Numbers out = run_kind(*attention_cached_kind(options),
                               {make_owned(DType::kF32, {3, 1, 1, 1, 2}, Numbers(6, 1.0)), keys, values, positions})[0]
                          .numbers();
  REQUIRE(out == Numbers{0, 0, 7, 7, 7, 7});
}

TEST_CASE("the cache refuses a token that does not fit", "[kv_cache]") {
  const Owned keys = make_owned(DType::kF32, {1, 2, 1, 1}, {0, 0});
  REQUIRE_THROWS_AS(run_kind(*kv_cache_append_kind(),
                             {keys, make_owned(DType::kF32, {1, 1, 1, 1}, {1}), make_owned(DType::kI32, {1, 1}, {2})}),
                    InternalError);
  AttentionOptions options;
  options.dropout = 0.1;
  REQUIRE_THROWS_AS(attention_cached_kind(options), InternalError);
}

}  // namespace
}  // namespace megatron
