#include "tensor/placement.h"

#include <algorithm>

#include "base/check.h"

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
    text += mesh.axes[i].name + ':';
    text += p.partial() ? "P" : p.flat() ? "F" : "S(" + std::to_string(p.dim) + ")";
  }
  return text.empty() ? "R" : text;
}

Block block_of(int64_t size, int64_t parts, int64_t part) {
  const int64_t base = size / parts, extra = size % parts;
  return {part * base + std::min(part, extra), base + (part < extra ? 1 : 0)};
}

Block flat_block(int64_t count, int64_t parts, int64_t part) {
  const int64_t size = round_up(div_ceil(count, parts), kFlatUnit);
  const int64_t begin = std::min(count, part * size);
  return {begin, std::min(size, count - begin)};
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

bool is_flat(const Placement& placement) {
  return std::any_of(placement.begin(), placement.end(), [](const AxisPlacement& p) { return p.flat(); });
}

Block flat_range(const Dims& shape, const Placement& placement, const Mesh& mesh) {
  Block range{0, local_box(shape, placement, mesh).extent.numel()};
  for (size_t axis = 0; axis < placement.size(); ++axis) {
    if (placement[axis].flat()) return flat_block(range.size, mesh.axes[axis].size, mesh.axes[axis].coordinate);
  }
  return range;
}

Dims local_shape(const Dims& shape, const Placement& placement, const Mesh& mesh) {
  return is_flat(placement) ? Dims{flat_range(shape, placement, mesh).size} : local_box(shape, placement, mesh).extent;
}

namespace {

/// Appends the boxes of elements [begin, end) of the part of `box` that has its dimensions before `dim` fixed.
void append_boxes(const LocalBox& box, int dim, int64_t begin, int64_t end, std::vector<LocalBox>& boxes) {
  if (begin >= end) return;
  int64_t row = 1;
  for (int d = dim + 1; d < box.extent.rank(); ++d) row *= box.extent[d];
  const auto rows = [&](int64_t first, int64_t count) {
    LocalBox part = box;
    part.origin[dim] += first;
    part.extent[dim] = count;
    return part;
  };
  const int64_t first = div_ceil(begin, row), last = end / row;  // whole rows
  if (begin % row != 0 || first > last) {                        // the end of a row, or the middle of one
    const int64_t at = begin / row;
    append_boxes(rows(at, 1), dim + 1, begin - at * row, std::min(end - at * row, row), boxes);
  }
  if (first > last) return;
  if (first < last) boxes.push_back(rows(first, last - first));
  append_boxes(rows(last, 1), dim + 1, 0, end - last * row, boxes);
}

}  // namespace

std::vector<LocalBox> boxes_of(const LocalBox& box, const Block& range) {
  if (range.size == 0) return {};
  if (range.size == box.extent.numel()) return {box};
  std::vector<LocalBox> boxes;
  append_boxes(box, 0, range.begin, range.begin + range.size, boxes);
  return boxes;
}

}  // namespace megatron
