// Picking one row per sample, and its gradient.
#include "kernels/gather_rows/gather_rows.h"

#include "base/error.h"
#include "direct_run.h"
#include "tests/catch.h"

namespace megatron {
namespace {

TEST_CASE("gather_rows picks, scatter_rows puts back", "[gather_rows]") {
  const Numbers x = random_numbers(4 * 3 * 5, 1), dy = random_numbers(3 * 5, 2);
  for (const DType dtype : {DType::kF64, DType::kBF16}) {
    const Owned values = make_owned(dtype, {4, 3, 5}, x), index = make_owned(DType::kI32, {3}, {2, 0, 3});
    const Numbers whole = values.numbers();
    const Numbers y = run_kind(*gather_rows_kind(), {values, index})[0].numbers();
    const Owned gradient = make_owned(dtype, {3, 5}, dy);
    const Numbers dx = run_kind(*scatter_rows_kind(4), {gradient, index})[0].numbers();
    const Numbers rounded = gradient.numbers();
    const int64_t rows[] = {2, 0, 3};
    for (int64_t s = 0; s < 4; ++s) {
      for (int64_t b = 0; b < 3; ++b) {
        for (int64_t c = 0; c < 5; ++c) {
          const auto from = static_cast<size_t>((s * 3 + b) * 5 + c), to = static_cast<size_t>(b * 5 + c);
          if (rows[b] == s) REQUIRE(y[to] == whole[from]);
          REQUIRE(dx[from] == (rows[b] == s ? rounded[to] : 0.0));
        }
      }
    }
    run_kind(*scatter_rows_kind(4), {gradient, index}, 2, {values}, {1});
    REQUIRE(values.numbers()[1] == whole[1]);  // row 0 of sample 0: not picked
    REQUIRE(values.numbers()[5] != whole[5]);  // row 0 of sample 1: picked
  }
}

TEST_CASE("gather_rows refuses a row that is not there", "[gather_rows]") {
  const Owned x = make_owned(DType::kF32, {2, 1, 1}, {1, 2});
  for (const double row : {-1.0, 2.0}) {
    REQUIRE_THROWS_AS(run_kind(*gather_rows_kind(), {x, make_owned(DType::kI32, {1}, {row})}), InternalError);
  }
}

}  // namespace
}  // namespace megatron
