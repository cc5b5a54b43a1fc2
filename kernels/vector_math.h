// exp in a form that compilers vectorise: the C library's is one call per element.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace megatron {

/// e^x in fp32 within 2 ulp for normal results; 0 below -87.3, infinity above 88.7, NaN stays NaN. Reduction to
/// [-ln2/2, ln2/2] in two steps (Cody and Waite, 1980) and a polynomial of degree 6. No branches.
inline float vector_exp(float x) {
  constexpr float kLog2E = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f, kRound = 12582912.0f;
  float clamped = x > 89.0f ? 89.0f : x;
  clamped = clamped < -87.33654f ? -87.33654f : clamped;
  const float n = (clamped * kLog2E + kRound) - kRound;  // nearest integer, by pushing the fraction out of the mantissa
  const float r = (clamped - n * kLn2High) - n * kLn2Low;
  float p = 1.3888889e-3f;
  p = p * r + 8.3333333e-3f;
  p = p * r + 4.1666667e-2f;
  p = p * r + 1.6666667e-1f;
  p = p * r + 5.0e-1f;
  p = p * r * r + r + 1.0f;
  // 2^n as a product of two powers, so that n = 128 does not overflow before the multiplication.
  const int32_t whole = static_cast<int32_t>(n), half = whole >> 1;
  const int32_t bits_a = (half + 127) << 23, bits_b = (whole - half + 127) << 23;
  float a, b;
  std::memcpy(&a, &bits_a, sizeof a);
  std::memcpy(&b, &bits_b, sizeof b);
  const float result = p * a * b;
  return x < -87.33654f ? 0.0f : (x != x ? x : result);
}

inline double vector_exp(double x) {
  return std::exp(x);
}

/// Both parts of the logistic function s = 1 / (1 + e^-z): s itself and s (1 - s), without cancellation.
template <typename A>
struct Logistic {
  A value, slope;
};
template <typename A>
inline Logistic<A> logistic(A z) {
  constexpr A kLimit = sizeof(A) == 8 ? A(700) : A(80);
  A clamped = z > kLimit ? kLimit : z;
  clamped = clamped < -kLimit ? -kLimit : clamped;
  const A e = vector_exp(-clamped);
  const A s = A(1) / (A(1) + e);
  return {s, e * s * s};
}

}  // namespace megatron
