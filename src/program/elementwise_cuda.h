// CUDA versions of what elementwise.cpp emits. Tensors lie in device memory; `stream` is a cudaStream_t.
#pragma once

#include "tensor/tensor.h"

namespace megatron {

/// y = a + b, or y += a + b when `adds`. All dense and of one floating type; y may be a.
void add_cuda(const Tensor& a, const Tensor& b, const Tensor& y, bool adds, void* stream);

/// Copies elements (any dtype and shape, equal on both sides, any strides). The two may not overlap.
void copy_strided_cuda(const Tensor& from, const Tensor& to, void* stream);

/// All elements of a (strided) tensor become zero.
void zero_strided_cuda(const Tensor& target, void* stream);

/// sum += x, with x converted to the accumulator type of `sum`; any strides.
void accumulate_cuda(const Tensor& x, const Tensor& sum, void* stream);

}  // namespace megatron
