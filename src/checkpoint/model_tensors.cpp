#include "checkpoint/model_tensors.h"

namespace megatron {
namespace {

Dims valid_shape(Dims shape, const Init& init) {
  if (init.valid_rows >= 0 && shape.rank() > 0 && init.valid_rows < shape[0]) shape[0] = init.valid_rows;
  return shape;
}

/// The output projection is [C, heads * D], as in Megatron-Core: how a program groups its heads depends on the mesh.
Dims merged_heads(const std::string& name, const Dims& shape) {
  const bool projection = name.ends_with("self_attention.linear_proj.weight");
  return projection && shape.rank() == 4 ? Dims{shape[0], shape[1] * shape[2] * shape[3]} : shape;
}

}  // namespace

TensorRecord stored_record(const std::string& name, StateKind kind, DType dtype, const Dims& shape, const Init& init) {
  const Dims stored = merged_heads(name, valid_shape(shape, init));
  return {name, kind, dtype, {stored.begin(), stored.end()}};
}

Tensor stored_rows(const Tensor& tensor, const Init& init) {
  Tensor rows = tensor;
  rows.shape = valid_shape(tensor.shape, init);
  return rows;
}

}  // namespace megatron
