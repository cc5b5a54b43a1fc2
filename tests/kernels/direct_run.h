// Runs one kernel directly on hand-made tensors. Results and workspace start as NaN, so that what a kernel forgets to
// write is seen.
#pragma once

#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/philox.h"
#include "base/thread_pool.h"
#include "program/op_kind.h"
#include "program/strided.h"

namespace megatron {

using Numbers = std::vector<double>;

inline Numbers random_numbers(int64_t count, uint64_t key, double scale = 1.0) {
  Numbers numbers;
  for (int64_t i = 0; i < count; ++i) numbers.push_back(scale * philox_normal(key, static_cast<uint64_t>(i)));
  return numbers;
}

/// max |a - b| / max |b| (absolute when b is zero); infinite when anything is not finite.
inline double relative_error(const Numbers& a, const Numbers& b) {
  if (a.size() != b.size()) return INFINITY;
  double difference = 0, top = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i]) || !std::isfinite(b[i])) return INFINITY;
    difference = std::max(difference, std::abs(a[i] - b[i]));
    top = std::max(top, std::abs(b[i]));
  }
  return top > 0 ? difference / top : difference;
}

/// A tensor with memory of its own.
struct Owned {
  std::shared_ptr<std::vector<double>> memory;  // double: aligned for every type
  Tensor tensor;

  /// Elements in row-major order.
  Numbers numbers() const {
    Numbers out;
    const auto read = [&](auto tag) {
      using T = decltype(tag);
      const T* data = tensor.as<T>();
      for_each_row(tensor.shape, tensor.strides, tensor.strides, [&](int64_t offset, int64_t, int64_t n) {
        for (int64_t i = 0; i < n; ++i) out.push_back(static_cast<double>(data[offset + i]));
      });
    };
    if (tensor.dtype == DType::kI32) {
      read(int32_t{});
    } else if (tensor.dtype == DType::kI64) {
      read(int64_t{});
    } else {
      dispatch_floating("numbers", tensor.dtype, read);
    }
    return out;
  }
  void assign(const Numbers& values) const {
    size_t next = 0;
    const auto write = [&](auto tag) {
      using T = decltype(tag);
      T* data = tensor.as<T>();
      for_each_row(tensor.shape, tensor.strides, tensor.strides, [&](int64_t offset, int64_t, int64_t n) {
        for (int64_t i = 0; i < n; ++i) data[offset + i] = static_cast<T>(values.at(next++));
      });
    };
    if (tensor.dtype == DType::kI32) {
      write(int32_t{});
    } else if (tensor.dtype == DType::kI64) {
      write(int64_t{});
    } else {
      dispatch_floating("assign", tensor.dtype, write);
    }
  }
};

/// A contiguous tensor (or, with `extent` elements of memory and `strides`, a view) full of NaN.
inline Owned nan_tensor(DType dtype, const Dims& shape, const Dims& strides, int64_t extent) {
  Owned o;
  o.memory = std::make_shared<std::vector<double>>(static_cast<size_t>(extent + 1), std::nan(""));
  std::memset(static_cast<void*>(o.memory->data()), 0xff, o.memory->size() * sizeof(double));  // NaN in every type
  o.tensor = Tensor{o.memory->data(), dtype, shape, strides};
  return o;
}

inline Owned make_owned(DType dtype, const Dims& shape, const Numbers& values) {
  Owned o = nan_tensor(dtype, shape, contiguous_strides(shape), shape.numel());
  o.assign(values);
  return o;
}

/// Part [begin, begin + size) of dimension `dim` of a larger tensor of extent `whole` along it: a strided view.
inline Owned make_part(DType dtype, Dims shape, int dim, int64_t begin, int64_t whole, const Numbers& values) {
  Dims outer = shape;
  outer[dim] = whole;
  const Dims strides = contiguous_strides(outer);
  Owned o = nan_tensor(dtype, shape, strides, outer.numel());
  o.tensor.data = static_cast<std::byte*>(o.tensor.data) + begin * strides[dim] * size_of(dtype);
  if (!values.empty()) o.assign(values);
  return o;
}

/// Runs `kind` on one rank; operands without data are absent. Results come back contiguous unless given.
inline std::vector<Owned> run_kind(const OpKind& kind, const std::vector<Owned>& operands, int threads = 2,
                                   std::vector<Owned> results = {}, std::vector<uint8_t> accumulate = {}) {
  std::vector<ValueInfo> infos(operands.size());
  Operands types;
  std::vector<Tensor> in, out;
  for (size_t i = 0; i < operands.size(); ++i) {
    infos[i].dtype = operands[i].tensor.dtype;
    infos[i].shape = operands[i].tensor.shape;
    types.push_back(operands[i].tensor ? &infos[i] : nullptr);
    in.push_back(operands[i].tensor);
  }
  const std::vector<ValueInfo> inferred = kind.infer(types, Mesh{});
  if (results.empty()) {
    for (const ValueInfo& r : inferred) {
      results.push_back(nan_tensor(r.dtype, r.shape, contiguous_strides(r.shape), r.shape.numel()));
    }
  }
  for (const Owned& r : results) out.push_back(r.tensor);
  accumulate.resize(results.size(), 0);
  std::vector<Dims> in_origins, out_origins;
  for (const Tensor& t : in) in_origins.push_back(Dims(t.shape));
  for (const Tensor& t : out) out_origins.push_back(Dims(t.shape));
  for (auto* origins : {&in_origins, &out_origins}) {
    for (Dims& d : *origins) {
      for (int i = 0; i < d.rank(); ++i) d[i] = 0;
    }
  }
  ThreadPool pool(threads);
  RunContext context;
  context.operands = in;
  context.results = out;
  context.accumulate = accumulate;
  context.operand_origins = in_origins;
  context.result_origins = out_origins;
  context.pool = &pool;
  std::vector<Tensor> bare_in = in, bare_out;
  for (Tensor& t : bare_in) t.data = nullptr;
  for (const ValueInfo& r : inferred) bare_out.push_back(make_tensor(nullptr, r.dtype, r.shape));
  RunContext shapes = context;
  shapes.operands = bare_in;
  shapes.results = bare_out;
  const int64_t bytes = kind.workspace(shapes, DeviceKind::kCpu);
  std::vector<std::byte> workspace(static_cast<size_t>(bytes + 512), std::byte{0xff});
  const auto address = reinterpret_cast<uintptr_t>(workspace.data());
  std::byte* aligned = workspace.data() + (256 - address % 256) % 256;
  context.workspace = aligned;
  kind.run_cpu(context);
  for (size_t i = static_cast<size_t>(aligned - workspace.data() + bytes); i < workspace.size(); ++i) {
    MEGATRON_CHECK(workspace[i] == std::byte{0xff}, kind.name() + " writes beyond its workspace");
  }
  return results;
}

}  // namespace megatron
