#include "checkpoint/model_tensors.h"

namespace megatron {
namespace {

Dims stored_shape(Dims shape, const Init& init) {
  if (init.valid_rows >= 0 && shape.rank() > 0 && init.valid_rows < shape[0]) shape[0] = init.valid_rows;
  return shape;
}

}  // namespace

TensorRecord stored_record(const std::string& name, StateKind kind, DType dtype, const Dims& shape, const Init& init) {
  const Dims stored = stored_shape(shape, init);
  return {name, kind, dtype, {stored.begin(), stored.end()}};
}

Tensor stored_rows(const Tensor& tensor, const Init& init) {
  Tensor rows = tensor;
  rows.shape = stored_shape(tensor.shape, init);
  return rows;
}

}  // namespace megatron
