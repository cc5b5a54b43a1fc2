// Where the elements of a global value live: per mesh axis replicated, sharded or partial.
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
  };
  Kind kind = Kind::kReplicated;
  int dim = -1;

  bool replicated() const { return kind == Kind::kReplicated; }
  bool sharded() const { return kind == Kind::kSharded; }
  bool partial() const { return kind == Kind::kPartial; }
  bool operator==(const AxisPlacement& other) const = default;

  static AxisPlacement R() { return {}; }
  static AxisPlacement S(int dim) { return {Kind::kSharded, dim}; }
  static AxisPlacement P() { return {Kind::kPartial, -1}; }
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

/// The box of a global tensor that this rank holds: per dimension its origin and extent. Several axes sharding one
/// dimension nest, later mesh axes outside (dp outside cp outside tp).
struct LocalBox {
  Dims origin, extent;
};
LocalBox local_box(const Dims& shape, const Placement& placement, const Mesh& mesh);

}  // namespace megatron
