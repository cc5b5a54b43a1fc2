// The rotary position embedding: frequency rules with known numbers, values from the definition, and its gradient.
#include "kernels/rope/rope.h"

#include "base/error.h"
#include "direct_run.h"
#include "tests/catch.h"

namespace megatron {
namespace {

RopeSpec spec_of(int64_t d) {
  RopeSpec spec;
  spec.head_dim = d;
  return spec;
}

TEST_CASE("rope frequencies are powers of the base", "[rope]") {
  const RopeTable table = rope_table(spec_of(8));
  REQUIRE(table.inv_freq.size() == 4);
  REQUIRE(table.concentration == 1.0);
  const double expected[] = {1.0, 0.1, 0.01, 0.001};
  for (size_t i = 0; i < 4; ++i) REQUIRE(table.inv_freq[i] == Approx(expected[i]).epsilon(1e-14));
  RopeSpec partial = spec_of(10);
  partial.percent = 0.45;  // int(4.5) = 4 channels
  REQUIRE(rope_table(partial).inv_freq.size() == 2);
  REQUIRE(rope_table(partial).inv_freq[1] == Approx(0.01).epsilon(1e-14));
}

TEST_CASE("LLaMA 3 scaling keeps short waves, stretches long ones, blends between", "[rope]") {
  RopeSpec spec = spec_of(128), plain = spec_of(128);
  spec.base = plain.base = 500000.0;
  spec.llama3.on = true;
  const RopeTable scaled = rope_table(spec), kept = rope_table(plain);
  int blended = 0;
  for (size_t i = 0; i < 64; ++i) {
    const double wavelength = 2 * 3.14159265358979323846 / kept.inv_freq[i];
    if (wavelength < 2048) {
      REQUIRE(scaled.inv_freq[i] == kept.inv_freq[i]);
    } else if (wavelength > 8192) {
      REQUIRE(scaled.inv_freq[i] == Approx(kept.inv_freq[i] / 8).epsilon(1e-14));
    } else {
      ++blended;
      const double share = (8192 / wavelength - 1) / 3;
      REQUIRE(scaled.inv_freq[i] == Approx(kept.inv_freq[i] * (share + (1 - share) / 8)).epsilon(1e-13));
    }
  }
  REQUIRE(blended == 6);  // channels 29 ... 34
  REQUIRE(scaled.inv_freq[28] == kept.inv_freq[28]);
  REQUIRE(scaled.inv_freq[29] < kept.inv_freq[29]);
}

TEST_CASE("YaRN's ramp and concentration", "[rope]") {
  RopeSpec spec = spec_of(64), plain = spec_of(64);
  spec.base = plain.base = 150000.0;
  spec.yarn.on = true;
  spec.yarn.factor = 32.0;
  spec.yarn.round_to_int = false;
  const RopeTable table = rope_table(spec), kept = rope_table(plain);
  REQUIRE(table.concentration == Approx(1.3465735902799727).epsilon(1e-15));  // 0.1 ln 32 + 1
  // Bounds 64 ln(4096 / (2 pi 32)) / (2 ln 150000) = 8.0928 and 64 ln(4096 / 2 pi) / (2 ln 150000) = 17.3980.
  REQUIRE(table.inv_freq[8] == kept.inv_freq[8]);
  REQUIRE(table.inv_freq[9] < kept.inv_freq[9]);
  REQUIRE(table.inv_freq[17] > kept.inv_freq[17] / 32);
  REQUIRE(table.inv_freq[18] == Approx(kept.inv_freq[18] / 32).epsilon(1e-14));
  REQUIRE(table.inv_freq[12] / kept.inv_freq[12] == Approx(1 - 0.41989 * 31.0 / 32).epsilon(1e-4));
  spec.yarn.round_to_int = true;  // bounds 8 and 18
  REQUIRE(rope_table(spec).inv_freq[13] / kept.inv_freq[13] == Approx(1 - 0.5 * 31.0 / 32).epsilon(1e-13));
  spec.yarn.mscale = 1.0;
  REQUIRE(rope_table(spec).concentration == Approx(1.3465735902799727).epsilon(1e-15));  // one of the two is missing
  spec.yarn.mscale_all_dim = 1.0;
  REQUIRE(rope_table(spec).concentration == 1.0);
  spec.yarn.mscale_all_dim = 0.0;
  REQUIRE(rope_table(spec).concentration == Approx(1.3465735902799727).epsilon(1e-15));
}

TEST_CASE("rope refuses impossible specs", "[rope]") {
  RopeSpec odd = spec_of(6), both = spec_of(8), pairs = spec_of(8), much = spec_of(8);
  odd.percent = 0.5;
  both.llama3.on = both.yarn.on = true;
  pairs.yarn.on = pairs.interleaved = true;
  much.percent = 2.0;
  for (const RopeSpec& spec : {odd, both, pairs, much}) REQUIRE_THROWS_AS(rope_table(spec), UsageError);
  const Owned x = make_owned(DType::kF32, {1, 1, 1, 4}, Numbers(4, 1.0));
  const Owned position = make_owned(DType::kI32, {1, 1}, {0});
  REQUIRE_THROWS_AS(run_kind(*rope_kind(spec_of(8)), {x, position}), PlacementError);
}

/// From the definition, as a complex rotation of each pair.
Numbers reference(const Numbers& x, const Numbers& position, int64_t heads, const RopeSpec& spec, double sign = 1.0) {
  const RopeTable table = rope_table(spec);
  const int64_t d = spec.head_dim, half = static_cast<int64_t>(table.inv_freq.size());
  Numbers y = x;
  for (size_t token = 0; token < position.size(); ++token) {
    for (int64_t h = 0; h < heads; ++h) {
      const size_t base = (token * static_cast<size_t>(heads) + static_cast<size_t>(h)) * static_cast<size_t>(d);
      for (int64_t i = 0; i < half; ++i) {
        const auto a = base + static_cast<size_t>(spec.interleaved ? 2 * i : i);
        const auto b = base + static_cast<size_t>(spec.interleaved ? 2 * i + 1 : i + half);
        const double angle =
            position[token] / spec.seq_len_interpolation_factor * table.inv_freq[static_cast<size_t>(i)];
        const double c = table.concentration * std::cos(angle), s = sign * table.concentration * std::sin(angle);
        y[a] = x[a] * c - x[b] * s;
        y[b] = x[b] * c + x[a] * s;
      }
    }
  }
  return y;
}

TEST_CASE("rope equals the definition, forwards and backwards, in all its forms", "[rope]") {
  RopeSpec plain = spec_of(8), partial = spec_of(8), pairs = spec_of(8), yarn = spec_of(8);
  partial.percent = 0.5;
  pairs.interleaved = true;
  pairs.seq_len_interpolation_factor = 4.0;
  yarn.yarn.on = true;
  yarn.yarn.factor = 8.0;
  const Numbers position = {0, 5, 5, 5, 17, 100000};  // [3, 2]: equal and different positions in a row
  const Numbers x = random_numbers(6 * 6 * 8, 1);
  for (const RopeSpec& spec : {plain, partial, pairs, yarn}) {
    for (const bool inverse : {false, true}) {
      const Numbers expected = reference(x, position, 6, spec, inverse ? -1.0 : 1.0);
      const Owned positions = make_owned(DType::kI32, {3, 2}, position);
      const auto kind = rope_kind(spec, inverse);
      const Owned x64 = make_owned(DType::kF64, {3, 2, 2, 3, 8}, x);
      REQUIRE(relative_error(run_kind(*kind, {x64, positions})[0].numbers(), expected) < 1e-14);
      REQUIRE(relative_error(run_kind(*kind, {make_owned(DType::kF32, {3, 2, 6, 8}, x), positions})[0].numbers(),
                             expected) < 3e-7);
      REQUIRE(relative_error(run_kind(*kind, {make_owned(DType::kBF16, {3, 2, 6, 8}, x), positions})[0].numbers(),
                             expected) < 1e-2);
      // A strided view, written onto itself.
      const Owned view = make_part(DType::kF64, {3, 2, 2, 3, 8}, 3, 1, 5, x);
      REQUIRE(run_kind(*kind, {view, positions}, 2, {view})[0].numbers() ==
              run_kind(*kind, {x64, positions})[0].numbers());
      // Added to what is there.
      const Owned sum = make_owned(DType::kF64, {3, 2, 2, 3, 8}, x);
      run_kind(*kind, {x64, positions}, 2, {sum}, {1});
      Numbers doubled = expected;
      for (size_t i = 0; i < x.size(); ++i) doubled[i] += x[i];
      REQUIRE(relative_error(sum.numbers(), doubled) < 1e-14);
    }
  }
}

TEST_CASE("rotated products depend on the distance alone", "[rope]") {
  const RopeSpec spec = spec_of(16);
  const Numbers q = random_numbers(16, 1), k = random_numbers(16, 2);
  const auto product = [&](double m, double n) {
    const Numbers a =
        run_kind(*rope_kind(spec), {make_owned(DType::kF64, {1, 1, 1, 16}, q), make_owned(DType::kI32, {1, 1}, {m})})[0]
            .numbers();
    const Numbers b =
        run_kind(*rope_kind(spec), {make_owned(DType::kF64, {1, 1, 1, 16}, k), make_owned(DType::kI32, {1, 1}, {n})})[0]
            .numbers();
    double sum = 0;
    for (size_t i = 0; i < 16; ++i) sum += a[i] * b[i];
    return sum;
  };
  REQUIRE(product(1007, 1000) == Approx(product(7, 0)).epsilon(1e-11));
  REQUIRE(std::abs(product(8, 0) - product(7, 0)) > 1e-3);
}

}  // namespace
}  // namespace megatron
