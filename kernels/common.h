// What the CPU kernels share: addressing rows of strided tensors, loops with a fixed cut, and sums in a fixed order, so
// that results do not depend on the number of threads.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/thread_pool.h"
#include "program/op_kind.h"

namespace megatron {

/// Elements that one block of an element-wise loop handles.
constexpr int64_t kElementsPerBlock = 16384;

/// `count` consecutive letters of index notation from `first` on.
inline std::string letters_from(char first, int count) {
  std::string letters;
  for (int i = 0; i < count; ++i) letters += static_cast<char>(first + i);
  return letters;
}

/// Product of the dimensions [begin, end).
inline int64_t product(const Dims& shape, int begin, int end) {
  int64_t n = 1;
  for (int i = begin; i < end; ++i) n *= shape[i];
  return n;
}

/// Bytes of all operands and results, results that are added to twice: what an operation that touches everything once
/// moves.
inline double touched_bytes(const RunContext& shapes) {
  double bytes = 0;
  for (const Tensor& t : shapes.operands) bytes += static_cast<double>(t.bytes());
  for (size_t i = 0; i < shapes.results.size(); ++i) {
    const bool adds = i < shapes.accumulate.size() && shapes.accumulate[i] != 0;
    bytes += (adds ? 2.0 : 1.0) * static_cast<double>(shapes.results[i].bytes());
  }
  return bytes;
}

/// body(begin, end) over blocks of elements.
template <typename Body>
void for_elements(ThreadPool* pool, int64_t count, Body&& body) {
  pool->parallel_for(count, kElementsPerBlock, std::forward<Body>(body));
}

/// Rows per block so that a block has about kElementsPerBlock elements.
inline int64_t rows_per_block(int64_t row_elements) {
  return row_elements >= kElementsPerBlock ? 1 : kElementsPerBlock / (row_elements < 1 ? 1 : row_elements);
}

/// Offset of row `row` (index over all dimensions but the innermost) of a strided tensor.
inline int64_t row_offset(const Tensor& t, int64_t row) {
  int64_t offset = 0;
  for (int i = t.shape.rank() - 2; i >= 0; --i) {
    const int64_t size = t.shape[i];
    offset += (row % size) * t.strides[i];
    row /= size;
  }
  return offset;
}

/// Typed rows of a tensor whose innermost dimension has stride 1; null rows when the tensor is absent.
template <typename T>
class Rows {
 public:
  explicit Rows(const Tensor& t) : tensor_(t), data_(t ? t.as<T>() : nullptr), contiguous_(t && t.contiguous()) {
    if (data_ && !contiguous_)
      MEGATRON_CHECK(t.shape.back() <= 1 || t.strides.back() == 1, "innermost stride must be 1");
  }
  explicit operator bool() const { return data_ != nullptr; }
  T* operator[](int64_t row) const {
    if (!data_) return nullptr;
    return data_ + (contiguous_ ? row * tensor_.shape.back() : row_offset(tensor_, row));
  }

 private:
  const Tensor& tensor_;
  T* data_;
  bool contiguous_;
};

/// Sum of term(i) for i in [0, n), in 16 interleaved lanes: vectorises, and has one fixed order.
template <typename A, typename Term>
inline A lane_sum(int64_t n, Term&& term) {
  constexpr int kLanes = 16;
  A lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) lanes[j] += term(i + j);
  }
  for (int j = 0; i < n; ++i, ++j) lanes[j] += term(i);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int j = 0; j < width; ++j) lanes[j] += lanes[j + width];
  }
  return lanes[0];
}

/// Workspace pointer of type T at `offset_bytes`.
template <typename T>
T* workspace_at(const RunContext& context, int64_t offset_bytes) {
  return reinterpret_cast<T*>(static_cast<char*>(context.workspace) + offset_bytes);
}

}  // namespace megatron
