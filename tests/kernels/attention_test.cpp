// Attention against a naive fp64 reference written from the formula, and its gradient against finite differences.
#include "kernels/attention/attention.h"

#include "base/error.h"
#include "base/strings.h"
#include "direct_run.h"
#include "tests/catch.h"

namespace megatron {
namespace {

struct Case {
  std::string name;
  int64_t s, t, b, g, q, d, e;
  AttentionOptions options;
  bool starts = false;
};

struct Inputs {
  Numbers q, k, v, starts, sample, position, dout;
  int64_t step = 123456789012345;
};

Inputs make_inputs(const Case& c) {
  Inputs in;
  in.q = random_numbers(c.s * c.b * c.g * c.q * c.d, 1);
  in.k = random_numbers(c.t * c.b * c.g * c.d, 2);
  in.v = random_numbers(c.t * c.b * c.g * c.e, 3);
  in.dout = random_numbers(c.s * c.b * c.g * c.q * c.e, 4);
  for (int64_t i = 0; i < c.s * c.b; ++i) {
    in.starts.push_back(static_cast<double>(i * 7 % 5));  // some rows see nothing
    in.position.push_back(static_cast<double>(100 + i / c.b));
  }
  for (int64_t b = 0; b < c.b; ++b) in.sample.push_back(9.0e9 + static_cast<double>(b));
  return in;
}

/// The keep-and-scale factor of one probability, straight from the definition of the mask.
double keep(const Case& c, const Inputs& in, int64_t i, int64_t j, int64_t b, int64_t head) {
  if (c.options.dropout == 0) return 1.0;
  const uint64_t key =
      philox_key(c.options.seed, hash_name(c.options.name) ^ (static_cast<uint64_t>(head) * 0xD6E8FEB86659FD93ull));
  const auto step = static_cast<uint64_t>(in.step), sample = static_cast<uint64_t>(in.sample[static_cast<size_t>(b)]);
  const uint32_t word = static_cast<uint32_t>(step) ^ (static_cast<uint32_t>(sample >> 32) * 0x9E3779B9u) ^
                        (static_cast<uint32_t>(step >> 32) * 0x85EBCA6Bu);
  const auto position = static_cast<uint32_t>(in.position[static_cast<size_t>(i * c.b + b)]);
  const Philox4 r = philox(key, static_cast<uint32_t>(j / 4), position, static_cast<uint32_t>(sample), word);
  return uniform_double(r.v[j % 4]) < c.options.dropout ? 0.0 : 1.0 / (1.0 - c.options.dropout);
}

bool sees(const Case& c, const Inputs& in, int64_t i, int64_t j, int64_t b) {
  const int64_t place = i + (c.t - c.s);
  if (c.options.causal && j > place) return false;
  if (c.options.window_left >= 0 && j < place - c.options.window_left) return false;
  if (c.options.window_right >= 0 && j > place + c.options.window_right) return false;
  return !(c.starts && static_cast<double>(j) < in.starts[static_cast<size_t>(i * c.b + b)]);
}

Numbers reference(const Case& c, const Inputs& in, Numbers* lse = nullptr) {
  Numbers out(static_cast<size_t>(c.s * c.b * c.g * c.q * c.e), 0.0);
  for (int64_t row = 0; row < c.s * c.b * c.g * c.q; ++row) {
    const int64_t h = row % c.q, g = row / c.q % c.g, b = row / c.q / c.g % c.b, i = row / c.q / c.g / c.b;
    Numbers p(static_cast<size_t>(c.t), 0.0);
    double sum = 0;
    for (int64_t j = 0; j < c.t; ++j) {
      if (!sees(c, in, i, j, b)) continue;
      double score = 0;
      for (int64_t x = 0; x < c.d; ++x) {
        score +=
            in.q[static_cast<size_t>(row * c.d + x)] * in.k[static_cast<size_t>(((j * c.b + b) * c.g + g) * c.d + x)];
      }
      p[static_cast<size_t>(j)] = std::exp(score * c.options.softmax_scale);
      sum += p[static_cast<size_t>(j)];
    }
    if (lse != nullptr) lse->push_back(sum > 0 ? std::log(sum) : 0.0);
    for (int64_t j = 0; j < c.t && sum > 0; ++j) {
      const double weight = p[static_cast<size_t>(j)] / sum * keep(c, in, i, j, b, g * c.q + h);
      for (int64_t x = 0; x < c.e; ++x) {
        out[static_cast<size_t>(row * c.e + x)] +=
            weight * in.v[static_cast<size_t>(((j * c.b + b) * c.g + g) * c.e + x)];
      }
    }
  }
  return out;
}

std::vector<Owned> operands(const Case& c, const Inputs& in, DType dtype) {
  const bool drop = c.options.dropout > 0;
  return {make_owned(dtype, {c.s, c.b, c.g, c.q, c.d}, in.q),
          make_owned(dtype, {c.t, c.b, c.g, c.d}, in.k),
          make_owned(dtype, {c.t, c.b, c.g, c.e}, in.v),
          c.starts ? make_owned(DType::kI32, {c.s, c.b}, in.starts) : Owned{},
          drop ? make_owned(DType::kI64, {}, {static_cast<double>(in.step)}) : Owned{},
          drop ? make_owned(DType::kI64, {c.b}, in.sample) : Owned{},
          drop ? make_owned(DType::kI32, {c.s, c.b}, in.position) : Owned{}};
}

std::vector<Owned> backward(const Case& c, const Inputs& in, DType dtype, int threads = 2,
                            std::vector<Owned> into = {}) {
  std::vector<Owned> ops = operands(c, in, dtype);
  const std::vector<Owned> fwd = run_kind(*attention_kind(c.options, {c.s, c.t, c.q}), ops);
  const Owned dout = make_owned(dtype, {c.s, c.b, c.g, c.q, c.e}, in.dout);
  const std::vector<Owned> all = {ops[0], ops[1], ops[2], fwd[0], fwd[1], dout, ops[3], ops[4], ops[5], ops[6]};
  return run_kind(*attention_backward_kind(c.options, {c.s, c.t, c.q}), all, threads, std::move(into));
}

AttentionOptions options(bool causal, int64_t left = -1, int64_t right = -1, double dropout = 0) {
  AttentionOptions o;
  o.softmax_scale = 0.4;
  o.causal = causal;
  o.window_left = left;
  o.window_right = right;
  o.dropout = dropout;
  o.seed = 1234;
  o.name = "decoder.layers.3.self_attention.core_attention";
  return o;
}

std::vector<Case> cases() {
  return {
      {"one", 1, 1, 1, 1, 1, 1, 1, options(true)},
      {"multi-head causal", 7, 7, 2, 3, 1, 5, 5, options(true)},
      {"grouped full", 6, 6, 2, 2, 3, 4, 3, options(false)},
      {"multi-query, more keys", 3, 8, 2, 1, 4, 4, 6, options(true)},
      {"more queries than keys", 8, 3, 1, 2, 1, 4, 4, options(true)},
      {"window", 11, 11, 2, 2, 2, 4, 4, options(true, 3)},
      {"two-sided window, more keys", 6, 10, 1, 2, 2, 4, 4, options(false, 2, 1)},
      {"starts", 9, 9, 2, 2, 2, 4, 4, options(true), true},
      {"dropout", 9, 9, 2, 2, 2, 4, 4, options(true, -1, -1, 0.3)},
      {"dropout, window and starts", 9, 9, 2, 2, 2, 4, 4, options(true, 4, -1, 0.5), true},
      {"several blocks", 150, 150, 1, 1, 2, 4, 4, options(true)},
      {"several blocks, window", 150, 170, 1, 1, 1, 4, 4, options(true, 40)},
  };
}

/// [s, b, g, q] as [b, g, q, s].
Numbers queries_last(const Case& c, const Numbers& rows) {
  const size_t heads = rows.size() / static_cast<size_t>(c.s);
  Numbers moved;
  for (size_t h = 0; h < heads; ++h) {
    for (size_t s = 0; s < static_cast<size_t>(c.s); ++s) moved.push_back(rows[s * heads + h]);
  }
  return moved;
}

TEST_CASE("attention equals the naive reference in fp64 and fp32", "[attention]") {
  for (const Case& c : cases()) {
    INFO(c.name);
    const Inputs in = make_inputs(c);
    Numbers rows;  // [s, b, g, q]
    const Numbers expected = reference(c, in, &rows);
    const Numbers lse = queries_last(c, rows);
    for (const auto& [dtype, tolerance] : {std::pair{DType::kF64, 1e-13}, std::pair{DType::kF32, 2e-6}}) {
      const std::vector<Owned> results = run_kind(*attention_kind(c.options, {c.s, c.t, c.q}), operands(c, in, dtype));
      REQUIRE(relative_error(results[0].numbers(), expected) < tolerance);
      Numbers got = results[1].numbers();
      const double none = dtype == DType::kF64 ? std::numeric_limits<double>::lowest()
                                               : static_cast<double>(std::numeric_limits<float>::lowest());
      for (double& x : got) x = x == none ? 0.0 : x;
      REQUIRE(relative_error(got, lse) < tolerance);
    }
  }
}

TEST_CASE("attention in 16 bits rounds only at its ends", "[attention]") {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    for (const Case& c : cases()) {
      INFO(c.name);
      Inputs in = make_inputs(c);
      std::vector<Owned> ops = operands(c, in, dtype);
      in.q = ops[0].numbers();
      in.k = ops[1].numbers();
      in.v = ops[2].numbers();
      const Numbers got = run_kind(*attention_kind(c.options, {c.s, c.t, c.q}), ops)[0].numbers();
      REQUIRE(relative_error(got, reference(c, in)) < (dtype == DType::kBF16 ? 4.1e-3 : 5.2e-4));  // half a unit
    }
  }
}

TEST_CASE("attention's gradient equals finite differences of the reference", "[attention]") {
  for (const Case& c : cases()) {
    INFO(c.name);
    const Inputs in = make_inputs(c);
    const std::vector<Owned> got = backward(c, in, DType::kF64);
    const auto objective = [&](const Inputs& at) {
      const Numbers out = reference(c, at);
      double sum = 0;
      for (size_t i = 0; i < out.size(); ++i) sum += out[i] * in.dout[i];
      return sum;
    };
    Numbers Inputs::*const members[] = {&Inputs::q, &Inputs::k, &Inputs::v};
    for (size_t m = 0; m < 3; ++m) {
      const Numbers analytic = got[m].numbers();
      const size_t count = analytic.size(), stride = std::max<size_t>(1, count / 40);
      Numbers picked, expected;
      for (size_t i = 0; i < count; i += stride) {
        Inputs up = in, down = in;
        (up.*members[m])[i] += 1e-5;
        (down.*members[m])[i] -= 1e-5;
        expected.push_back((objective(up) - objective(down)) / 2e-5);
        picked.push_back(analytic[i]);
      }
      REQUIRE(relative_error(picked, expected) < 1e-8);
    }
  }
}

TEST_CASE("attention's gradient in fp32 and bf16 follows the one in fp64", "[attention]") {
  for (const Case& c : cases()) {
    INFO(c.name);
    const Inputs in = make_inputs(c);
    const std::vector<Owned> exact = backward(c, in, DType::kF64);
    const std::vector<Owned> single = backward(c, in, DType::kF32), half = backward(c, in, DType::kBF16);
    for (size_t i = 0; i < 3; ++i) {
      REQUIRE(relative_error(single[i].numbers(), exact[i].numbers()) < 5e-6);
      REQUIRE(relative_error(half[i].numbers(), exact[i].numbers()) < 4e-2);
    }
  }
}

TEST_CASE("attention does not depend on threads or strides", "[attention]") {
  const Case c{"", 70, 70, 3, 2, 2, 8, 8, options(true, -1, -1, 0.2)};
  const Inputs in = make_inputs(c);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const std::vector<Owned> plain = operands(c, in, dtype);
    const auto kind = attention_kind(c.options, {c.s, c.t, c.q});
    const std::vector<Owned> one = run_kind(*kind, plain, 1), three = run_kind(*kind, plain, 3);
    REQUIRE(one[0].numbers() == three[0].numbers());
    REQUIRE(one[1].numbers() == three[1].numbers());
    // q, k and v as parts of one [s, b, g, q + 2, d] projection.
    std::vector<Owned> parts = plain;
    parts[0] = make_part(dtype, {c.s, c.b, c.g, c.q, c.d}, 3, 0, c.q + 2, in.q);
    for (size_t i : {1u, 2u}) {
      Owned part = make_part(dtype, {c.s, c.b, c.g, 1, c.d}, 3, c.q + static_cast<int64_t>(i) - 1, c.q + 2,
                             i == 1 ? in.k : in.v);
      const Dims strides = part.tensor.strides;
      part.tensor.shape = {c.s, c.b, c.g, c.d};
      part.tensor.strides = {strides[0], strides[1], strides[2], strides[4]};
      parts[i] = part;
    }
    REQUIRE(run_kind(*kind, parts)[0].numbers() == one[0].numbers());

    const std::vector<Owned> gradient = backward(c, in, dtype, 1), again = backward(c, in, dtype, 3);
    for (size_t i = 0; i < 3; ++i) REQUIRE(gradient[i].numbers() == again[i].numbers());
    std::vector<Owned> into = {make_part(dtype, {c.s, c.b, c.g, c.q, c.d}, 3, 0, c.q + 2, {}), {}, {}};
    for (size_t i : {1u, 2u}) into[i] = make_part(dtype, {c.t, c.b, c.g, c.d}, 2, 0, c.g + 1, {});
    const std::vector<Owned> strided = backward(c, in, dtype, 2, into);
    for (size_t i = 0; i < 3; ++i) REQUIRE(gradient[i].numbers() == strided[i].numbers());
  }
}

TEST_CASE("attention writes only the gradients that are wanted", "[attention]") {
  const Case c{"", 9, 9, 2, 2, 2, 4, 4, options(true)};
  const Inputs in = make_inputs(c);
  const std::vector<Owned> all = backward(c, in, DType::kF64);
  for (size_t wanted = 0; wanted < 3; ++wanted) {
    std::vector<Owned> into(3);
    into[wanted] =
        nan_tensor(DType::kF64, all[wanted].tensor.shape, all[wanted].tensor.strides, all[wanted].tensor.numel());
    REQUIRE(backward(c, in, DType::kF64, 2, into)[wanted].numbers() == all[wanted].numbers());
  }
}

TEST_CASE("attention dropout keeps about 1 - p of the probabilities, and other bits at other steps", "[attention]") {
  Case c{"", 64, 64, 1, 1, 4, 2, 64, options(false, -1, -1, 0.25)};
  Inputs in = make_inputs(c);
  std::fill(in.q.begin(), in.q.end(), 0.0);  // uniform probabilities; v = identity shows them
  std::fill(in.v.begin(), in.v.end(), 0.0);
  for (size_t i = 0; i < 64; ++i) in.v[i * 64 + i] = 1.0;
  const auto kind = attention_kind(c.options, {c.s, c.t, c.q});
  const Numbers first = run_kind(*kind, operands(c, in, DType::kF64))[0].numbers();
  ++in.step;
  const Numbers second = run_kind(*kind, operands(c, in, DType::kF64))[0].numbers();
  int64_t kept = 0, differ = 0;
  for (size_t i = 0; i < first.size(); ++i) {
    kept += first[i] > 0;
    differ += (first[i] > 0) != (second[i] > 0);
    REQUIRE((first[i] == 0.0 || std::abs(first[i] * 64 * 0.75 - 1) < 1e-12));
  }
  const auto count = static_cast<double>(first.size());  // 16384 bits: standard deviation of the share 0.0034
  REQUIRE(std::abs(static_cast<double>(kept) / count - 0.75) < 0.015);
  REQUIRE(std::abs(static_cast<double>(differ) / count - 0.375) < 0.015);
}

TEST_CASE("attention counts the visible pairs", "[attention]") {
  AttentionArgs args;
  args.q.shape = {8, 3, 2, 4, 16};
  args.k.shape = {8, 3, 2, 16};
  args.v.shape = {8, 3, 2, 32};
  const double full = 2.0 * 3 * 2 * 4 * 8 * 8 * (16 + 32);
  args.options.causal = false;
  REQUIRE(attention_flops(args) == full);
  args.options.causal = true;
  REQUIRE(attention_flops(args) == full / 2);
  args.options.window_left = 1;
  REQUIRE(attention_flops(args) == full / 4);  // two keys of eight
  args.options.window_left = -1;
  args.q.shape[0] = 1;  // one more token: sees nearly all
  REQUIRE(attention_flops(args) == Approx(full / 8 * 7.5 / 8));
}

TEST_CASE("attention refuses what does not fit", "[attention]") {
  const Case c{"", 4, 4, 1, 1, 1, 2, 2, options(true, -1, -1, 0.1)};
  const Inputs in = make_inputs(c);
  std::vector<Owned> ops = operands(c, in, DType::kF32);
  REQUIRE_THROWS_AS(run_kind(*attention_kind(c.options, {5, 4, 1}), ops), PlacementError);
  ops[4] = {};
  REQUIRE_THROWS_AS(run_kind(*attention_kind(c.options, {4, 4, 1}), ops), PlacementError);
  ops = operands(c, in, DType::kF32);
  ops[1] = make_owned(DType::kF64, {4, 1, 1, 2}, in.k);
  REQUIRE_THROWS_AS(run_kind(*attention_kind(c.options, {4, 4, 1}), ops), PlacementError);
  AttentionOptions all = c.options;
  all.dropout = 1.0;
  REQUIRE_THROWS_AS(attention_kind(all, {4, 4, 1}), InternalError);
}

}  // namespace
}  // namespace megatron
