// XXH64, the 64-bit xxHash: a fast checksum that finds damage. It is no protection against forgery.
// Specification: https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace megatron {

/// XXH64 of bytes that arrive in parts; the cuts do not matter.
class Xxh64 {
 public:
  explicit Xxh64(uint64_t seed = 0);
  void update(std::span<const std::byte> bytes);
  /// Value for everything seen so far; more updates may follow.
  uint64_t digest() const;

 private:
  std::array<uint64_t, 4> lanes_;
  std::array<std::byte, 32> pending_{};
  size_t pending_size_ = 0;
  uint64_t seed_;
  uint64_t total_ = 0;
};

uint64_t xxh64(std::span<const std::byte> bytes, uint64_t seed = 0);
uint64_t xxh64(std::string_view text, uint64_t seed = 0);

/// 16 lower-case hexadecimal digits.
std::string hex64(uint64_t value);
/// The inverse of hex64; nothing but exactly that form is accepted.
std::optional<uint64_t> parse_hex64(std::string_view text);

}  // namespace megatron
