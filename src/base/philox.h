// Philox4x32-10, a counter-based random generator: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
// SC 2011. A number is a pure function of (key, counter), so it depends on neither the order of evaluation nor the
// number of ranks. Host and device.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define MEGATRON_HOST_DEVICE __host__ __device__
#else
#define MEGATRON_HOST_DEVICE
#endif

namespace megatron {

struct Philox4 {
  uint32_t v[4];
};

/// Mixes a seed and a name hash (see hash_name) into a 64-bit key (the finaliser of splitmix64).
MEGATRON_HOST_DEVICE constexpr uint64_t philox_key(uint64_t seed, uint64_t name_hash) {
  uint64_t z = name_hash + 0x9e3779b97f4a7c15ull * (seed + 1);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

/// Four 32-bit random words for one (key, counter).
MEGATRON_HOST_DEVICE inline Philox4 philox(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return Philox4{{c0, c1, c2, c3}};
}

/// Uniform in (0, 1): never 0, so that a logarithm of it is finite. Exact in double.
MEGATRON_HOST_DEVICE inline double uniform_double(uint32_t word) {
  return (word + 0.5) * (1.0 / 4294967296.0);
}

/// Two standard normal numbers: 2 * pair and 2 * pair + 1 of the stream `key` (Box-Muller in double, so that the values
/// are the same for every storage type).
struct NormalPair {
  double even, odd;
};
inline NormalPair philox_normal_pair(uint64_t key, uint64_t pair) {
  const Philox4 r = philox(key, static_cast<uint32_t>(pair), static_cast<uint32_t>(pair >> 32), 0x6e6f726du, 0);
  const double radius = std::sqrt(-2.0 * std::log(uniform_double(r.v[0])));
  const double angle = 6.283185307179586476925 * uniform_double(r.v[1]);
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

/// Standard normal number `index` of the stream `key`.
inline double philox_normal(uint64_t key, uint64_t index) {
  const NormalPair pair = philox_normal_pair(key, index / 2);
  return index % 2 == 0 ? pair.even : pair.odd;
}

/// Uniform number `index` of the stream `key`, in (0, 1).
inline double philox_uniform(uint64_t key, uint64_t index) {
  const uint64_t block = index / 4;
  const Philox4 r = philox(key, static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), 0x756e6966u, 0);
  return uniform_double(r.v[index % 4]);
}

}  // namespace megatron
