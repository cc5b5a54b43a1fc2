// Where the elements of a global value live: per mesh axis replicated, sharded, partial or flat.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace megatron {

/// One named axis of the device mesh as one rank sees it.
struct MeshAxis {
  std::string name;    ///< "tp", "cp", "ep", "dp", "pp"
  int size = 1;        ///< number of ranks along the axis
  int coordinate = 0;  ///< of this rank, in [0, size)
};

/// The mesh of one rank, first axis fastest in rank order (Megatron's order is tp-cp-ep-dp-pp).
struct Mesh {
  std::vector<MeshAxis> axes;

  int rank() const { return static_cast<int>(axes.size()); }
  /// Index of the axis called `name`, or -1.
  int find(const std::string& name) const;
  int64_t world_size() const;
};

/// How a value lies along one mesh axis.
struct AxisPlacement {
  enum class Kind : uint8_t {
    kReplicated,  ///< R: the same on all ranks of the axis
    kSharded,     ///< S(dim): contiguous blocks of dimension `dim`
    kPartial,     ///< P: the true value is the sum over the ranks
    kFlat,        ///< F: what the other axes leave of it, as one row of elements, cut in blocks (see flat_block)
  };
  Kind kind = Kind::kReplicated;
  int dim = -1;

  bool replicated() const { return kind == Kind::kReplicated; }
  bool sharded() const { return kind == Kind::kSharded; }
  bool partial() const { return kind == Kind::kPartial; }
  bool flat() const { return kind == Kind::kFlat; }
  /// The ranks of the axis hold different elements.
  bool cuts() const { return sharded() || flat(); }
  bool operator==(const AxisPlacement& other) const = default;

  static AxisPlacement R() { return {}; }
  static AxisPlacement S(int dim) { return {Kind::kSharded, dim}; }
  static AxisPlacement P() { return {Kind::kPartial, -1}; }
  static AxisPlacement F() { return {Kind::kFlat, -1}; }
};

/// One AxisPlacement per mesh axis, in mesh order.
using Placement = std::vector<AxisPlacement>;

/// "R" when replicated everywhere, else for example "tp:S(2) dp:P".
std::string to_string(const Placement& placement, const Mesh& mesh);

/// First index and size of block `part` when `size` is cut in `parts` contiguous blocks. The first size % parts blocks
/// are one longer, so any size can be cut.
struct Block {
  int64_t begin = 0, size = 0;
};
Block block_of(int64_t size, int64_t parts, int64_t part);

/// Block `part` of a row of `count` elements that a flat axis cuts: blocks of ceil(count / parts), rounded up to
/// kFlatUnit so that they stay aligned; the last ones are shorter or empty.
constexpr int64_t kFlatUnit = 8;
Block flat_block(int64_t count, int64_t parts, int64_t part);

/// The box of a global tensor that this rank holds: per dimension its origin and extent. Several axes sharding one
/// dimension nest, later mesh axes outside (dp outside cp outside tp). A flat axis does not count: the rank holds
/// flat_range() of the elements of the box.
struct LocalBox {
  Dims origin, extent;
};
LocalBox local_box(const Dims& shape, const Placement& placement, const Mesh& mesh);

/// True when an axis is flat; at most one is.
bool is_flat(const Placement& placement);
/// Which of the elements of local_box(), row-major, this rank holds: all of them where no axis is flat.
Block flat_range(const Dims& shape, const Placement& placement, const Mesh& mesh);
/// Extents of what this rank holds: those of local_box(), or one row of flat_range().
Dims local_shape(const Dims& shape, const Placement& placement, const Mesh& mesh);

/// The boxes that elements [range.begin, range.begin + range.size) of `box`, row-major, make up, in their order: at
/// most two per dimension and one.
std::vector<LocalBox> boxes_of(const LocalBox& box, const Block& range);

}  // namespace megatron
