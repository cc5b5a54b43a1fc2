// A hash map from 64-bit keys in one flat array (open addressing, linear probing): pairs of ids are looked up in it
// many millions of times. No erase; the key kEmpty can't be stored.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace megatron {

template <typename Value>
class FlatMap {
 public:
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  struct Slot {
    uint64_t key = kEmpty;
    Value value{};
  };

  explicit FlatMap(size_t expected = 8) { resize_for(expected); }

  /// Null when there is none.
  const Value* find(uint64_t key) const {
    for (size_t i = start(key);; i = (i + 1) & mask_) {
      if (slots_[i].key == key) return &slots_[i].value;
      if (slots_[i].key == kEmpty) return nullptr;
    }
  }

  /// Inserts Value{} when there is none. Any insertion invalidates references.
  Value& operator[](uint64_t key) {
    for (size_t i = start(key);; i = (i + 1) & mask_) {
      if (slots_[i].key == key) return slots_[i].value;
      if (slots_[i].key == kEmpty) {
        if ((size_ + 1) * 2 > slots_.size()) {
          grow();
          return (*this)[key];
        }
        ++size_;
        slots_[i].key = key;
        return slots_[i].value;
      }
    }
  }

  size_t size() const { return size_; }
  /// All slots; those with key kEmpty are unused.
  const std::vector<Slot>& slots() const { return slots_; }

 private:
  size_t start(uint64_t key) const {
    const uint64_t mixed = (key ^ (key >> 32)) * 0x9e3779b97f4a7c15ull;
    return static_cast<size_t>(mixed >> 32) & mask_;
  }

  void resize_for(size_t expected) {
    size_t slots = 16;
    while (slots < expected * 2 + 2) slots *= 2;
    slots_.assign(slots, Slot{});
    mask_ = slots - 1;
    size_ = 0;
  }

  void grow() {
    std::vector<Slot> old;
    old.swap(slots_);
    resize_for(old.size());
    for (Slot& slot : old) {
      if (slot.key != kEmpty) (*this)[slot.key] = std::move(slot.value);
    }
  }

  std::vector<Slot> slots_;
  size_t mask_ = 0;
  size_t size_ = 0;
};

constexpr uint64_t pair_key(int32_t left, int32_t right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

}  // namespace megatron
