#include "tensor/placement.h"

#include <algorithm>

namespace megatron {

int Mesh::find(const std::string& name) const {
  for (int i = 0; i < rank(); ++i) {
    if (axes[static_cast<size_t>(i)].name == name) return i;
  }
  return -1;
}

int64_t Mesh::world_size() const {
  int64_t size = 1;
  for (const MeshAxis& axis : axes) size *= axis.size;
  return size;
}

std::string to_string(const Placement& placement, const Mesh& mesh) {
  std::string text;
  for (size_t i = 0; i < placement.size(); ++i) {
    const AxisPlacement& p = placement[i];
    if (p.replicated()) continue;
    if (!text.empty()) text += ' ';
    text += mesh.axes[i].name + ':' + (p.partial() ? std::string("P") : "S(" + std::to_string(p.dim) + ")");
  }
  return text.empty() ? "R" : text;
}

Block block_of(int64_t size, int64_t parts, int64_t part) {
  const int64_t base = size / parts, extra = size % parts;
  return {part * base + std::min(part, extra), base + (part < extra ? 1 : 0)};
}

LocalBox local_box(const Dims& shape, const Placement& placement, const Mesh& mesh) {
  LocalBox box{shape, shape};
  for (int i = 0; i < shape.rank(); ++i) box.origin[i] = 0;
  for (int axis = static_cast<int>(placement.size()) - 1; axis >= 0; --axis) {
    const AxisPlacement& p = placement[static_cast<size_t>(axis)];
    if (!p.sharded()) continue;
    const MeshAxis& a = mesh.axes[static_cast<size_t>(axis)];
    const Block block = block_of(box.extent[p.dim], a.size, a.coordinate);
    box.origin[p.dim] += block.begin;
    box.extent[p.dim] = block.size;
  }
  return box;
}

}  // namespace megatron
