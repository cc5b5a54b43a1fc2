#include "checkpoint/model_tensors.h"

#include <algorithm>

#include "base/check.h"

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

Box stored_box(const std::string& name, const Dims& shape, const Init& init, const LocalBox& local) {
  Dims offset = local.origin, extent = local.extent;
  const Dims valid = valid_shape(shape, init);
  if (shape.rank() > 0) {
    offset[0] = std::min(offset[0], valid[0]);
    extent[0] = std::clamp<int64_t>(valid[0] - offset[0], 0, extent[0]);
  }
  if (merged_heads(name, shape).rank() < shape.rank()) {  // cut by groups: a run of whole groups stays a run
    const int64_t group = shape[2] * shape[3];
    MEGATRON_CHECK(extent[2] * extent[3] == group, name + " is cut inside a group of heads");
    offset = Dims{offset[0], offset[1] * group};
    extent = Dims{extent[0], extent[1] * group};
  }
  return {{offset.begin(), offset.end()}, {extent.begin(), extent.end()}};
}

Tensor stored_rows(const Tensor& tensor, const Init& init) {
  Tensor rows = tensor;
  rows.shape = valid_shape(tensor.shape, init);
  return rows;
}

}  // namespace megatron
