// How tensors of a program are named and shaped in checkpoints.
#pragma once

#include <string>

#include "checkpoint/manifest.h"
#include "program/program.h"

namespace megatron {

/// The record of a parameter, or of optimizer state of its shape: padding rows of the vocabulary are left out, so that
/// a checkpoint does not depend on how the tables were padded, nor on how a mesh groups the heads: the output
/// projection of attention is [C, heads * head_dim].
TensorRecord stored_record(const std::string& name, StateKind kind, DType dtype, const Dims& shape, const Init& init);

/// Where a rank's part of a parameter of `shape`, or of optimizer state of its shape, lies in the stored tensor;
/// extents of 0 where it is padding alone. The part is the beginning of the rank's (contiguous) memory.
Box stored_box(const std::string& name, const Dims& shape, const Init& init, const LocalBox& local);

/// The rows of a padded tensor that a checkpoint holds: a view of its beginning.
Tensor stored_rows(const Tensor& tensor, const Init& init);

}  // namespace megatron
