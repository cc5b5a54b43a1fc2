// Dimensions and tensor views. A Tensor owns nothing: memory belongs to arenas that the plan sizes.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "base/check.h"
#include "tensor/dtype.h"

namespace megatron {

/// Up to eight sizes (a shape) or strides, stored in place. Rank 0 is a scalar.
class Dims {
 public:
  static constexpr int kMaxRank = 8;
  Dims() = default;
  Dims(std::initializer_list<int64_t> sizes) {
    for (int64_t size : sizes) push_back(size);
  }

  int rank() const { return rank_; }
  int64_t operator[](int i) const { return sizes_[static_cast<size_t>(i)]; }
  int64_t& operator[](int i) { return sizes_[static_cast<size_t>(i)]; }
  int64_t back() const { return sizes_[static_cast<size_t>(rank_ - 1)]; }
  void push_back(int64_t size) {
    MEGATRON_CHECK(rank_ < kMaxRank, "a tensor has at most 8 dimensions");
    sizes_[static_cast<size_t>(rank_++)] = size;
  }
  /// Product of all sizes; 1 for a scalar.
  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= (*this)[i];
    return n;
  }
  bool operator==(const Dims& other) const {
    if (rank_ != other.rank_) return false;
    for (int i = 0; i < rank_; ++i) {
      if ((*this)[i] != other[i]) return false;
    }
    return true;
  }
  bool operator!=(const Dims& other) const { return !(*this == other); }
  const int64_t* begin() const { return sizes_.data(); }
  const int64_t* end() const { return sizes_.data() + rank_; }

 private:
  std::array<int64_t, kMaxRank> sizes_{};
  int rank_ = 0;
};

/// "[4, 128]".
std::string to_string(const Dims& dims);

/// Row-major strides, in elements.
Dims contiguous_strides(const Dims& shape);

/// True when `strides` lay `shape` out without gaps, row-major (sizes of 1 may have any stride).
bool is_contiguous(const Dims& shape, const Dims& strides);

/// A view of memory that somebody else owns. `data == nullptr` means "absent".
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kF32;
  Dims shape;
  Dims strides;  ///< in elements

  explicit operator bool() const { return data != nullptr; }
  int64_t numel() const { return shape.numel(); }
  int64_t bytes() const { return numel() * size_of(dtype); }
  bool contiguous() const { return is_contiguous(shape, strides); }

  /// Typed pointer to the first element; the type must be that of `dtype`.
  template <typename T>
  T* as() const {
    if constexpr (requires { dtype_of<T>::value; }) {
      MEGATRON_CHECK(dtype == dtype_of<T>::value, "tensor is " + std::string(name_of(dtype)));
    } else {
      MEGATRON_CHECK(size_of(dtype) == static_cast<int64_t>(sizeof(T)), "tensor is " + std::string(name_of(dtype)));
    }
    return static_cast<T*>(data);
  }
};

/// A contiguous view of `data`.
Tensor make_tensor(void* data, DType dtype, const Dims& shape);

}  // namespace megatron
