// The bits of dropout: a pure function of (seed, name, step, global sample, position, global channel), so that a mask
// depends on neither the number of ranks nor the order of evaluation, and is made again in the backward instead of
// stored. Host and device.
#pragma once

#include <cmath>
#include <cstdint>
#include <string_view>

#include "base/philox.h"
#include "base/strings.h"

namespace megatron {

/// Last word of the Philox counter: the step, with what does not fit 32 bits of step and sample mixed in.
MEGATRON_HOST_DEVICE inline uint32_t dropout_step_word(int64_t step, int64_t sample) {
  const uint32_t step_high = static_cast<uint32_t>(static_cast<uint64_t>(step) >> 32);
  const uint32_t sample_high = static_cast<uint32_t>(static_cast<uint64_t>(sample) >> 32);
  return static_cast<uint32_t>(step) ^ (sample_high * 0x9E3779B9u) ^ (step_high * 0x85EBCA6Bu);
}

/// What one token shares: build it once per token with dropout_token().
struct DropoutToken {
  uint64_t key;
  uint32_t position, sample, step;
};
MEGATRON_HOST_DEVICE inline DropoutToken dropout_token(uint64_t key, int64_t step, int64_t sample, int32_t position) {
  return {key, static_cast<uint32_t>(position), static_cast<uint32_t>(sample), dropout_step_word(step, sample)};
}

/// Words of channels 4 group .. 4 group + 3.
MEGATRON_HOST_DEVICE inline Philox4 dropout_words(const DropoutToken& token, uint32_t group) {
  return philox(token.key, group, token.position, token.sample, token.step);
}

/// Smallest word that is kept: (word + 0.5) / 2^32 >= p. May be 2^32 only for p = 1, which no caller allows.
inline uint64_t dropout_threshold(double p) {
  const double edge = p * 4294967296.0 - 0.5;
  return edge <= 0 ? 0 : static_cast<uint64_t>(std::ceil(edge));
}

/// Key of a dropout site: `name` is its module path. For attention, mix the head in with `index`.
constexpr uint64_t dropout_key(uint64_t seed, uint64_t name_hash, uint64_t index = 0) {
  return philox_key(seed, name_hash ^ (index * 0xD6E8FEB86659FD93ull));
}

/// Words of channels 4 (group + i), i in [0, 8), as words[channel within the 32]: dropout_words() for eight groups at
/// once, written so that compilers vectorise over the groups.
inline void dropout_words8(const DropoutToken& token, uint32_t group, uint32_t* words) {
  constexpr int kGroups = 8;
  uint32_t c0[kGroups], c1[kGroups], c2[kGroups], c3[kGroups];
  for (uint32_t i = 0; i < kGroups; ++i) {
    c0[i] = group + i;
    c1[i] = token.position;
    c2[i] = token.sample;
    c3[i] = token.step;
  }
  uint32_t k0 = static_cast<uint32_t>(token.key), k1 = static_cast<uint32_t>(token.key >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < kGroups; ++i) {
      const uint64_t p0 = uint64_t{0xD2511F53u} * c0[i], p1 = uint64_t{0xCD9E8D57u} * c2[i];
      c0[i] = static_cast<uint32_t>(p1 >> 32) ^ c1[i] ^ k0;
      c2[i] = static_cast<uint32_t>(p0 >> 32) ^ c3[i] ^ k1;
      c1[i] = static_cast<uint32_t>(p1);
      c3[i] = static_cast<uint32_t>(p0);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int i = 0; i < kGroups; ++i) {
    words[4 * i] = c0[i];
    words[4 * i + 1] = c1[i];
    words[4 * i + 2] = c2[i];
    words[4 * i + 3] = c3[i];
  }
}

/// The mask of one dropout site on the CPU. Attention uses the key position as channel and the head as `index`.
class DropoutMask {
 public:
  DropoutMask(double p, uint64_t seed, std::string_view name, uint64_t index = 0)
      : key_(dropout_key(seed, hash_name(name), index)), threshold_(dropout_threshold(p)), scale_(1.0 / (1.0 - p)) {}

  /// multipliers[i] = 0 or 1 / (1 - p) for channels first .. first + count - 1 of one token.
  template <typename A>
  void fill(int64_t first, int64_t count, int64_t position, int64_t sample, int64_t step, A* multipliers) const {
    const DropoutToken token = dropout_token(key_, step, sample, static_cast<int32_t>(position));
    const A scale = static_cast<A>(scale_);
    int64_t i = 0;
    const auto pick = [&](uint32_t word) { multipliers[i++] = word >= threshold_ ? scale : A(0); };
    while (i < count) {
      const int64_t channel = first + i;
      if (channel % 4 == 0 && count - i >= 32) {
        uint32_t words[32];
        dropout_words8(token, static_cast<uint32_t>(channel / 4), words);
        for (const uint32_t word : words) pick(word);
        continue;
      }
      const Philox4 words = dropout_words(token, static_cast<uint32_t>(channel / 4));
      for (int64_t j = channel % 4; j < 4 && i < count; ++j) pick(words.v[j]);
    }
  }

 private:
  uint64_t key_, threshold_;
  double scale_;
};

}  // namespace megatron
