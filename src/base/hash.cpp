#include "base/hash.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace megatron {
namespace {

static_assert(std::endian::native == std::endian::little, "words are read in little-endian order");

constexpr uint64_t kPrime1 = 0x9E3779B185EBCA87ull;
constexpr uint64_t kPrime2 = 0xC2B2AE3D27D4EB4Full;
constexpr uint64_t kPrime3 = 0x165667B19E3779F9ull;
constexpr uint64_t kPrime4 = 0x85EBCA77C2B2AE63ull;
constexpr uint64_t kPrime5 = 0x27D4EB2F165667C5ull;
constexpr size_t kStripe = 32;

template <typename Word>
uint64_t load(const std::byte* at) {
  Word word;
  std::memcpy(&word, at, sizeof word);
  return word;
}

uint64_t round_lane(uint64_t lane, uint64_t input) {
  return std::rotl(lane + input * kPrime2, 31) * kPrime1;
}

uint64_t merge_lane(uint64_t hash, uint64_t lane) {
  return (hash ^ round_lane(0, lane)) * kPrime1 + kPrime4;
}

void consume_stripes(std::array<uint64_t, 4>& lanes, const std::byte* at, size_t stripes) {
  uint64_t a = lanes[0], b = lanes[1], c = lanes[2], d = lanes[3];
  for (; stripes > 0; --stripes, at += kStripe) {
    a = round_lane(a, load<uint64_t>(at));
    b = round_lane(b, load<uint64_t>(at + 8));
    c = round_lane(c, load<uint64_t>(at + 16));
    d = round_lane(d, load<uint64_t>(at + 24));
  }
  lanes = {a, b, c, d};
}

uint64_t finish(uint64_t hash, const std::byte* at, size_t size) {
  for (; size >= 8; at += 8, size -= 8) {
    hash = std::rotl(hash ^ round_lane(0, load<uint64_t>(at)), 27) * kPrime1 + kPrime4;
  }
  if (size >= 4) {
    hash = std::rotl(hash ^ (load<uint32_t>(at) * kPrime1), 23) * kPrime2 + kPrime3;
    at += 4;
    size -= 4;
  }
  for (; size > 0; ++at, --size) hash = std::rotl(hash ^ (load<uint8_t>(at) * kPrime5), 11) * kPrime1;
  hash = (hash ^ (hash >> 33)) * kPrime2;
  hash = (hash ^ (hash >> 29)) * kPrime3;
  return hash ^ (hash >> 32);
}

}  // namespace

Xxh64::Xxh64(uint64_t seed) : lanes_{seed + kPrime1 + kPrime2, seed + kPrime2, seed, seed - kPrime1}, seed_(seed) {}

void Xxh64::update(std::span<const std::byte> bytes) {
  total_ += bytes.size();
  if (pending_size_ > 0) {
    const size_t take = std::min(kStripe - pending_size_, bytes.size());
    std::copy_n(bytes.begin(), take, pending_.begin() + static_cast<ptrdiff_t>(pending_size_));
    pending_size_ += take;
    bytes = bytes.subspan(take);
    if (pending_size_ < kStripe) return;
    consume_stripes(lanes_, pending_.data(), 1);
    pending_size_ = 0;
  }
  const size_t stripes = bytes.size() / kStripe;
  consume_stripes(lanes_, bytes.data(), stripes);
  bytes = bytes.subspan(stripes * kStripe);
  std::copy(bytes.begin(), bytes.end(), pending_.begin());
  pending_size_ = bytes.size();
}

uint64_t Xxh64::digest() const {
  uint64_t hash = seed_ + kPrime5;
  if (total_ >= kStripe) {
    hash = std::rotl(lanes_[0], 1) + std::rotl(lanes_[1], 7) + std::rotl(lanes_[2], 12) + std::rotl(lanes_[3], 18);
    for (uint64_t lane : lanes_) hash = merge_lane(hash, lane);
  }
  return finish(hash + total_, pending_.data(), pending_size_);
}

uint64_t xxh64(std::span<const std::byte> bytes, uint64_t seed) {
  Xxh64 hash(seed);
  hash.update(bytes);
  return hash.digest();
}

uint64_t xxh64(std::string_view text, uint64_t seed) {
  return xxh64(std::as_bytes(std::span(text)), seed);
}

std::string hex64(uint64_t value) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text(16, '0');
  for (size_t i = 0; i < 16; ++i) text[15 - i] = kDigits[(value >> (4 * i)) & 15];
  return text;
}

std::optional<uint64_t> parse_hex64(std::string_view text) {
  if (text.size() != 16) return std::nullopt;
  uint64_t value = 0;
  for (char c : text) {
    if (c >= '0' && c <= '9') {
      value = value << 4 | static_cast<uint64_t>(c - '0');
    } else if (c >= 'a' && c <= 'f') {
      value = value << 4 | static_cast<uint64_t>(c - 'a' + 10);
    } else {
      return std::nullopt;
    }
  }
  return value;
}

}  // namespace megatron
